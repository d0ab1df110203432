-- Looks up an entry other than the known one, and takes the lock if there is none.
-- KEYS: entry, lock. ARGV: owner, known entry, lease in ms, largest entry in bytes.
-- Returns the time in ms, whether the lock was taken, the entry, and its time to live in ms.
local entry = redis.pcall('GET', KEYS[1])
local failed = type(entry) == 'table'
if failed and not string.find(entry.err, 'WRONGTYPE', 1, true) then
    return entry
end
if failed or (entry and #entry > tonumber(ARGV[4])) then
    redis.call('DEL', KEYS[1])
    return redis.error_reply('GARBAGE in place of an entry, now removed')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if entry and entry ~= ARGV[2] then
    return {now, 0, entry, redis.call('PTTL', KEYS[1])}
end
-- A lock is free if it does not exist. It is ours if the reply to an earlier try was lost. It has no owner if it has no
-- expiry, or a later one than any lease: someone else wrote it, or Redis's clock has jumped.
local owner = redis.pcall('GET', KEYS[2])
local ttl = redis.call('PTTL', KEYS[2])
if owner ~= ARGV[1] and ttl >= 0 and ttl <= tonumber(ARGV[3]) then
    return {now, 0, false, 0}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return {now, 1, false, 0}
