-- any | handler succeeded (any owner) → done.
-- KEYS: inc; then claim, done chunk for each. ARGV: inc, owner, horizon ms; then
--       bit, epoch, run for each. Reply for each: 1 = resolve, + 2 = was mine.
local me, horizon = ARGV[2], ARGV[3]
local out = {}
for i = 1, (#KEYS - 1) / 2 do
  local ck, dk, j = KEYS[2 * i], KEYS[2 * i + 1], 3 + (i - 1) * 3
  to_hash(ck, dk, ARGV[j + 1], horizon)
  local v = redis.call('HMGET', ck, 's', 'e', 'o', 'r')
  local s, answer = v[1], 0
  if s == 'D' or s == 'X' or tonumber(ARGV[j + 2]) > 0 or tonumber(v[2] or 0) > 0 then answer = 1 end
  if s == 'R' and v[3] == me and v[4] == ARGV[j + 3] then answer = answer + 2 end
  keyed(dk, ARGV[j + 1], horizon)
  add_bit(dk, ARGV[j + 1], horizon)
  if s == 'D' then
    -- Kept for a while: should this answer be lost, the next Done still says
    -- that there is a letter to resolve.
    redis.call('DEL', ck, ck .. ':b')
    redis.call('HSET', ck, 's', 'X')
    redis.call('PEXPIRE', ck, math.min(600000, tonumber(horizon)))
  elseif s and s ~= 'X' then
    redis.call('DEL', ck, ck .. ':b')
  end
  out[i] = answer
end
return out
