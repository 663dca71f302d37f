#!lua flags=allow-oom
-- Subtract the usage of API keys at one gateway process, and return what is left. Safe to repeat.
-- KEYS buckets counts seen
-- ARGV number since_ms seen_ttl_ms buckets_ttl_ms counts_ttl_ms, then per key: name rate burst spent counted
-- Returns per key: tokens left (as text; negative is debt), requests of the day
-- A bucket is stored as tokens|ms. A process reports its usage of the last since_ms. So the bucket is filled for the
-- time before, reduced by the usage, and filled for the last since_ms. This is exact after a pause of any length.
--#include _group
local buckets, counts, seen = KEYS[1], KEYS[2], KEYS[3]
local number, since_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local is_new = tonumber(redis.call('GET', seen) or '0') < number
if is_new then redis.call('SET', seen, ARGV[1], 'PX', ARGV[3]) end

local names = {}
for i = 6, #ARGV, 5 do names[#names + 1] = ARGV[i] end
if #names == 0 then return {} end
local stored, counted = redis.call('HMGET', buckets, unpack(names)), redis.call('HMGET', counts, unpack(names))
local now = now_ms()

local function left_in(bucket, rate, burst, spent)
  local tokens, at = string.match(bucket or '', '^(%S+)|(%d+)$')
  tokens, at = tonumber(tokens) or burst, tonumber(at) or now
  local elapsed_ms = math.max(0, now - at)
  local recent_ms = math.min(elapsed_ms, since_ms)
  tokens = math.min(burst, tokens + (elapsed_ms - recent_ms) * rate / 1000)
  return math.min(burst, tokens - spent + recent_ms * rate / 1000)
end

local result = {}
for n, name in ipairs(names) do
  local i = 1 + n * 5
  local rate, burst = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local spent, more = is_new and tonumber(ARGV[i + 3]) or 0, is_new and tonumber(ARGV[i + 4]) or 0
  local tokens, today = burst, tonumber(counted[n] or '0')
  if rate > 0 then
    tokens = left_in(stored[n], rate, burst, spent)
    if spent > 0 then redis.call('HSET', buckets, name, string.format('%.3f|%.0f', tokens, now)) end
  end
  if more ~= 0 then today = redis.call('HINCRBY', counts, name, more) end
  result[#result + 1] = string.format('%.3f', tokens)
  result[#result + 1] = today
end
redis.call('PEXPIRE', buckets, ARGV[4])
redis.call('PEXPIRE', counts, ARGV[5])
return result
