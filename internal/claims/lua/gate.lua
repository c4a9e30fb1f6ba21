-- Leaves the gate, if it is still the caller's. KEYS: gate. ARGV: nonce.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
