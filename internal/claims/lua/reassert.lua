-- After Redis was lost or failed over: what an owner still holds stands again.
-- The higher run wins (under N none was started); done and cancelled stay.
-- KEYS: inc; then claim, done chunk for each. ARGV: inc, owner, token, void prefix,
-- horizon ms; then bit, epoch, attempt, coordinate, run, crashes, '1' if waiting, due, history,
-- ms of silence allowed if it goes on elsewhere, for each.
-- Reply for each: 1 = mine again, 0 = lost to another or done: let it go.
local function split(r)
  local e, i, n = string.match(r, '^(%d+)%.(%d+)%.(%d+)$')
  return tonumber(e), tonumber(i), tonumber(n)
end
local function above(r, s) -- r > s
  if not s or s == '' then return true end
  local e, i, n = split(r)
  local E, I, N = split(s)
  return e > E or (e == E and (i > I or (i == I and n > N)))
end

local me, token, out = ARGV[2], ARGV[3], {}
-- As in claim.lua: what was held then may have been handed back since.
if redis.call('EXISTS', ARGV[4] .. token) == 1 then return redis.error_reply('PERDURE_VOID') end
for i = 1, (#KEYS - 1) / 2 do
  local ck, dk, j = KEYS[2 * i], KEYS[2 * i + 1], 5 + (i - 1) * 10
  local run, want = ARGV[j + 5], ARGV[j + 7] == '1' and 'W' or 'R'
  to_hash(ck, dk, ARGV[j + 1], ARGV[5])
  local v = redis.call('HMGET', ck, 's', 'o', 'r')
  local s = v[1]
  out[i] = 0
  if redis.call('GETBIT', dk, ARGV[j + 1]) == 0 and s ~= 'C' and s ~= 'X' then
    local stands = s == want and v[2] == me and v[3] == run
    -- the W that this owner wrote over this R was lost
    local after = want == 'W' and s == 'R' and v[2] == me and v[3] == run
    if stands or after or s == 'N' or above(run, v[3]) then
      if not stands then
        redis.call('HDEL', ck, 'd', 'l', 'h', 'y', 'n', 'k', 'i', 'p', 'ph', 'm', 'z', 'w', 'f')
        redis.call('HSET', ck, 's', want, 'e', ARGV[j + 2], 'a', ARGV[j + 3], 'r', run, 'o', me, 'c', ARGV[j + 4])
        if ARGV[j + 6] ~= '0' then redis.call('HSET', ck, 'n', ARGV[j + 6]) end
        if want == 'W' then redis.call('HSET', ck, 'l', '1') end
        if ARGV[j + 8] ~= '' then redis.call('HSET', ck, 'd', ARGV[j + 8]) end
        if ARGV[j + 9] ~= '' then redis.call('HSET', ck, 'h', ARGV[j + 9]) end
        if ARGV[j + 10] ~= '' then
          redis.call('HSET', ck, 'w', ARGV[j + 10])
          redis.call('HSET', ck .. ':b', 'r', run) -- what was heard is lost: as if just now
          redis.call('PEXPIRE', ck .. ':b', ARGV[j + 10])
        end
        redis.call('PERSIST', ck)
      end
      redis.call('HSET', ck, 'k', token)
      keyed(dk, ARGV[j + 1], ARGV[5])
      out[i] = 1
    end
  end
end
return out
