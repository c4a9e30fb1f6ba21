-- R, mine, not started | hand-back → the claim before it; run and crashes kept.
-- KEYS: inc; then claim, done chunk for each (none where only a call is made void).
-- ARGV: inc, owner, horizon ms, void prefix, void ms; then for each bit, the field
-- that must match (r = run, k = token of the call; v = none, only make the call void)
-- and its value.
-- Reply for each: 1 = handed back, 0 = not mine.
-- The call that granted is void from now on: a copy of it that is still on its
-- way (its answer was lost, or the client sent it twice) must not grant again.
local out, voided = {}, {}
local function void(token)
  if token and token ~= '' and not voided[token] then
    voided[token] = true
    redis.call('SET', ARGV[4] .. token, '1', 'PX', ARGV[5])
  end
end
for i = 1, (#KEYS - 1) / 2 do
  local ck, dk, j = KEYS[2 * i], KEYS[2 * i + 1], 6 + (i - 1) * 3
  if ARGV[j + 1] == 'r' then
    to_hash(ck, dk, ARGV[j], ARGV[3])
  else
    void(ARGV[j + 2])
    -- Nothing was started under its entries: those without a hash are none again.
    if ARGV[j + 1] == 'k' then forget_call(dk, ARGV[j + 2]) end
  end
  local v = ARGV[j + 1] == 'v' and {} or redis.call('HMGET', ck, 's', 'o', ARGV[j + 1], 'p', 'x', 'ph', 'k')
  if v[1] == 'R' and v[2] == ARGV[2] and v[3] == ARGV[j + 2] then
    void(v[7])
    redis.call('HDEL', ck, 'i', 'p', 'ph', 'z')
    local kind = v[4] and string.sub(v[4], 1, 1)
    if v[5] then -- cancel was asked meanwhile, and nothing was started
      redis.call('HDEL', ck, 'x', 'h', 'k', 'f')
      redis.call('HSET', ck, 's', 'C')
      redis.call('PEXPIRE', ck, ARGV[3])
    elseif kind == 'W' then -- also what was in doubt: its attempt waits at its record, the crash stays counted
      local a, c, d, l, w = string.match(v[4], '^W|(%d+)|([^|]*)|([^|]*)|([^|]*)|?([^|]*)$')
      redis.call('HSET', ck, 's', 'W', 'a', a, 'c', c)
      if d ~= '' then redis.call('HSET', ck, 'd', d) end
      if l ~= '' then redis.call('HSET', ck, 'l', l) end
      if w ~= '' then redis.call('HSET', ck, 'w', w) end
    elseif kind == 'D' then
      local e, a, c, y, n = string.match(v[4], '^D|(%d+)|(%d+)|([^|]*)|([^|]*)|(%d+)$')
      redis.call('HSET', ck, 's', 'D', 'e', e, 'a', a, 'c', c, 'y', y)
      redis.call('HDEL', ck, 'k')
      if n ~= '0' then redis.call('HSET', ck, 'n', n) end
      if v[6] then redis.call('HSET', ck, 'h', v[6]) end
      redis.call('PEXPIRE', ck, ARGV[3])
    else
      redis.call('HDEL', ck, 'e', 'a', 'o', 'c', 'k')
      redis.call('HSET', ck, 's', 'N')
      redis.call('PEXPIRE', ck, ARGV[3])
    end
    out[i] = 1
  else
    out[i] = 0
  end
end
return out
