-- none, W | cancel → cancelled; R | cancel → flag, the owner decides.
-- KEYS: inc, claim, done chunk. ARGV: inc ('' = any), bit, horizon ms.
-- Reply: {1 if done, claim as field, value, ...}.
if redis.call('GETBIT', KEYS[3], ARGV[2]) == 1 then return {1, {}} end
to_hash(KEYS[2], KEYS[3], ARGV[2], ARGV[3])
local s = redis.call('HGET', KEYS[2], 's')
if s == 'R' then
  redis.call('HSET', KEYS[2], 'x', '1')
elseif not s or s == 'N' or s == 'W' then
  -- No expiry before its record has come: that may be scheduled for next year.
  redis.call('HDEL', KEYS[2], 'd', 'l', 'h', 'x', 'k', 'w', 'f')
  redis.call('HSET', KEYS[2], 's', 'C')
  redis.call('PERSIST', KEYS[2])
  keyed(KEYS[3], ARGV[2], '')
end
return {0, redis.call('HGETALL', KEYS[2])}
