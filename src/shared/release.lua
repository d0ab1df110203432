-- Releases the lock if it is still ours, and writes a new entry over none or the known one, but not over any other.
-- KEYS: entry, lock. ARGV: owner, known entry, new entry or nothing, its expiry as Unix time in ms.
if redis.call('GET', KEYS[2]) == ARGV[1] then
    redis.call('DEL', KEYS[2])
end
if ARGV[3] ~= '' then
    local entry = redis.call('GET', KEYS[1])
    if not entry or entry == ARGV[2] then
        redis.call('SET', KEYS[1], ARGV[3])
        redis.call('PEXPIREAT', KEYS[1], ARGV[4])
    end
end
