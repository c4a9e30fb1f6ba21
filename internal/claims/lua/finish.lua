-- R(0, 1), mine, an entry | handler succeeded → done, for all of a call at once,
-- or for none of a chunk where any task has a hash: done.lua decides those.
-- KEYS: inc; then the chunk of each part. ARGV: inc, horizon ms; then for each
-- part first byte, bits (see any_bit), and the fields of dk:runs of which nothing is
-- left, each ended by a space. Reply for each part: 1 = all done, 0 = nothing changed.
local horizon, out = ARGV[2], {}
for i = 1, #KEYS - 1 do
  local dk, j = KEYS[1 + i], 2 + (i - 1) * 3
  local tmp = dk .. ':tmp'
  out[i] = 1
  if ARGV[j + 2] ~= '' then
    local first, bits = ARGV[j + 1], ARGV[j + 2]
    hold(tmp, first, bits)
    if any_bit(dk .. ':keyed', tmp, first, bits) then
      out[i] = 0
    else
      add_bits(dk .. ':seen', tmp, first, bits, horizon) -- never shorter than done
      add_bits(dk, tmp, first, bits, horizon)
    end
    forget(tmp, first)
  end
  for token in string.gmatch(ARGV[j + 3], '%S+') do redis.call('HDEL', dk .. ':runs', token) end
end
return out
