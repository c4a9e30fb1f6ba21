-- R, mine | fails, may retry → CAS W(a+1, C). Goes on elsewhere, and cancel was asked → cancelled.
-- KEYS: inc; then claim, done chunk for each. ARGV: inc, owner, horizon ms; then bit,
-- run, next attempt, due, '1' if local, history, ms of silence allowed if it goes on
-- elsewhere ('' = it does not) for each.
-- Reply for each: 1 = W stands, 0 = not mine any more.
local out = {}
for i = 1, (#KEYS - 1) / 2 do
  local ck, j = KEYS[2 * i], 4 + (i - 1) * 7
  to_hash(ck, KEYS[2 * i + 1], ARGV[j], ARGV[3])
  local v = redis.call('HMGET', ck, 's', 'o', 'r', 'x')
  if v[2] == ARGV[2] and v[3] == ARGV[j + 1] and v[1] == 'R' and v[4] and ARGV[j + 6] ~= '' then
    -- Cancelled while it ran, and nobody would look before a long silence.
    redis.call('HDEL', ck, 'k', 'i', 'p', 'ph', 'h', 'x', 'm', 'z', 'f')
    redis.call('HSET', ck, 's', 'C')
    redis.call('PEXPIRE', ck, ARGV[3])
    out[i] = 0
  elseif v[2] == ARGV[2] and v[3] == ARGV[j + 1] and v[1] == 'R' then
    redis.call('HDEL', ck, 'i', 'p', 'ph', 'd', 'l', 'h', 'z', 'w', 'f')
    redis.call('HSET', ck, 's', 'W', 'a', ARGV[j + 2])
    if ARGV[j + 3] ~= '' then redis.call('HSET', ck, 'd', ARGV[j + 3]) end
    if ARGV[j + 4] ~= '' then redis.call('HSET', ck, 'l', '1') end
    if ARGV[j + 5] ~= '' then redis.call('HSET', ck, 'h', ARGV[j + 5]) end
    if ARGV[j + 6] ~= '' then
      redis.call('HSET', ck, 'w', ARGV[j + 6])
      redis.call('HSET', ck .. ':b', 'r', ARGV[j + 1])
      redis.call('PEXPIRE', ck .. ':b', ARGV[j + 6])
    end
    out[i] = 1
  elseif v[2] == ARGV[2] and v[3] == ARGV[j + 1] and v[1] == 'W' then
    out[i] = 1 -- said before; the answer was lost
  else
    out[i] = 0
  end
end
return out
