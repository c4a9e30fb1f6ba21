-- Names the incarnation of this Redis. KEYS: inc, gate, hold.
-- ARGV: what inc was when the gate was taken ('' = absent), the gate's nonce,
-- the new value, hold ms ('0' = none). Reply: 1, or 0 if Redis was lost since or
-- another was quicker. No prelude: this is what it checks against.
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
if ARGV[4] ~= '0' then redis.call('SET', KEYS[3], '1', 'PX', ARGV[4]) end
redis.call('DEL', KEYS[2])
return 1
