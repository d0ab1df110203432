-- Writes a new entry over none or the known one, but not over any other. Then releases the lock if it is still ours, so
-- that no process finds the lock free and the entry missing.
-- KEYS: entry, lock. ARGV: owner, known entry, new entry or nothing, its expiry as Unix time in ms.
if ARGV[3] ~= '' then
    local entry = redis.call('GET', KEYS[1])
    local time = redis.call('TIME')
    local left = ARGV[4] - time[1] * 1000 - math.floor(time[2] / 1000)
    if left > 0 and (not entry or entry == ARGV[2]) then
        redis.call('SET', KEYS[1], ARGV[3], 'PX', left)
    end
end
if redis.pcall('GET', KEYS[2]) == ARGV[1] then
    redis.call('DEL', KEYS[2])
end
