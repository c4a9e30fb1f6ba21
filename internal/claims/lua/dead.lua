-- R, mine | permanent, exhausted, expired → CAS dead(e). And, with run '', a task
-- that dies before any grant, wherever its record would have been granted.
-- KEYS: inc; then claim, done chunk for each. ARGV: inc, owner, horizon ms; then
-- bit, epoch, attempt, coordinate, run, reason, history for each.
-- Reply for each: 1 = dead(e) stands: produce the letter; 0 = not yours to say.
local me, horizon, out = ARGV[2], ARGV[3], {}

local function may(s, v, e, a, run)
  if run ~= '' then return s == 'R' and v[2] == me and v[3] == run end
  if not s or s == 'N' then return true end
  local E, A = tonumber(v[4] or 0), tonumber(v[5] or 0)
  return (s == 'D' and e > E) or (s == 'W' and e == E and a >= A)
end

for i = 1, (#KEYS - 1) / 2 do
  local ck, dk, j = KEYS[2 * i], KEYS[2 * i + 1], 3 + (i - 1) * 7
  local e, a, run = tonumber(ARGV[j + 2]), tonumber(ARGV[j + 3]), ARGV[j + 5]
  to_hash(ck, dk, ARGV[j + 1], horizon)
  local v = redis.call('HMGET', ck, 's', 'o', 'r', 'e', 'a')
  if redis.call('GETBIT', dk, ARGV[j + 1]) == 1 then
    out[i] = 0
  elseif may(v[1], v, e, a, run) then
    if v[4] and e > tonumber(v[4]) then redis.call('HDEL', ck, 'n', 'h') end
    redis.call('HDEL', ck, 'k', 'i', 'p', 'ph', 'd', 'l', 'x', 'm', 'z', 'w', 'f')
    redis.call('HSET', ck, 's', 'D', 'e', e, 'a', a, 'o', me, 'c', ARGV[j + 4], 'y', ARGV[j + 6])
    if ARGV[j + 7] ~= '' then redis.call('HSET', ck, 'h', ARGV[j + 7]) end
    redis.call('PEXPIRE', ck, horizon)
    keyed(dk, ARGV[j + 1], horizon)
    out[i] = 1
  elseif v[1] == 'D' and tonumber(v[4]) == e and (run == '' or v[3] == run) then
    out[i] = 1 -- said before; the answer was lost
  else
    out[i] = 0
  end
end
return out
