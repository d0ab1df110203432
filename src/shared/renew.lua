-- Renews the lease if the lock is still ours. KEYS: entry, lock. ARGV: owner, lease in ms. Returns whether it is.
if redis.pcall('GET', KEYS[2]) ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
