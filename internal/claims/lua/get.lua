-- Reads claims; changes nothing. KEYS: inc; then claim, done chunk for each.
-- ARGV: a bit for each. Reply: inc ('' = none), then {done, field, value, ...} for each.
local out = {redis.call('GET', KEYS[1]) or ''}
for i = 1, #ARGV do
  local ck, dk = KEYS[2 * i], KEYS[2 * i + 1]
  local fields
  local e = entry(dk, ARGV[i])
  if e then
    fields = {'s', 'R', 'e', '0', 'a', '1', 'r', e.r, 'o', e.owner, 'c', e.c, 'k', e.k}
  else
    fields = redis.call('HGETALL', ck)
  end
  table.insert(fields, 1, redis.call('GETBIT', dk, ARGV[i]))
  out[#out + 1] = fields
end
return out
