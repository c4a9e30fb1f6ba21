-- Kafka has what was made from W or D, and its source is committed: the history
-- is not needed again. KEYS: inc; then claims. ARGV: inc; then run for each.
for i = 1, #KEYS - 1 do
  local v = redis.call('HMGET', KEYS[i + 1], 's', 'r')
  if (v[1] == 'W' or v[1] == 'D') and (v[2] or '') == ARGV[1 + i] then redis.call('HDEL', KEYS[i + 1], 'h') end
end
return 0
