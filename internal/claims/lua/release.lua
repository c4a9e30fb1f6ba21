-- R, mine | given up: op 'abandon' leaves it in doubt at once, though its owner
-- beats; op 'cancel' is the owner's answer to a cancel.
-- KEYS: inc; then claim, done chunk for each. ARGV: inc, owner, op, horizon ms; then
-- bit, run for each.
-- Reply for each: 1 = stands, 0 = not mine any more.
local op, out = ARGV[3], {}
for i = 1, (#KEYS - 1) / 2 do
  local ck, j = KEYS[2 * i], 4 + (i - 1) * 2
  to_hash(ck, KEYS[2 * i + 1], ARGV[j + 1], ARGV[4])
  local v = redis.call('HMGET', ck, 's', 'o', 'r')
  local s, mine = v[1], v[3] == ARGV[j + 2]
  out[i] = 0
  if mine and s == 'R' and v[2] == ARGV[2] then
    if op == 'abandon' then
      redis.call('HSET', ck, 'o', '')
    else
      redis.call('HDEL', ck, 'k', 'i', 'p', 'ph', 'h', 'x', 'm', 'z', 'f')
      redis.call('HSET', ck, 's', 'C')
      redis.call('PEXPIRE', ck, ARGV[4])
    end
    out[i] = 1
  elseif mine and ((op == 'abandon' and s == 'R' and v[2] == '') or (op == 'cancel' and s == 'C')) then
    out[i] = 1 -- said before; the answer was lost
  end
end
return out
