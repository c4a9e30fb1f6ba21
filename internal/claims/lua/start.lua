-- none | record of a first attempt: R for all of a call at once, or for none of a
-- chunk where any task is not none: claim.lua decides those.
-- KEYS: inc, hold, own beat, void of this call; then the chunk of each part.
-- ARGV: inc, horizon ms; then first byte, bits (see any_bit), field and value for
--       dk:runs of each part: a part is of one chunk and one partition.
-- Reply for each part: 1 = all granted, 0 = nothing changed.
if redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('PERDURE_PAUSED') end
local own = redis.call('GET', KEYS[3])
if not own then return redis.error_reply('PERDURE_PAUSED') end
if own == 'gone' then return redis.error_reply('PERDURE_GONE') end
if redis.call('EXISTS', KEYS[4]) == 1 then return redis.error_reply('PERDURE_VOID') end

local horizon, out = ARGV[2], {}
for i = 1, #KEYS - 4 do
  local dk, j = KEYS[4 + i], 2 + (i - 1) * 4
  local seen, tmp, runs = dk .. ':seen', dk .. ':tmp', dk .. ':runs'
  if redis.call('HEXISTS', runs, ARGV[j + 3]) == 1 then
    out[i] = 1 -- the same call once more: its first answer was lost on the way
  else
    local first, bits = ARGV[j + 1], ARGV[j + 2]
    hold(tmp, first, bits)
    if any_bit(seen, tmp, first, bits) then
      out[i] = 0
    else
      local left = redis.call('PTTL', runs)
      redis.call('HSET', runs, ARGV[j + 3], ARGV[j + 4])
      live(runs, left, horizon)
      add_bits(seen, tmp, first, bits, horizon)
      out[i] = 1
    end
    forget(tmp, first)
  end
end
return out
