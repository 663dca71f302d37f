#!lua flags=allow-oom
-- Take off what one gateway process let through under each API key, and say what is left. Sending it again is harmless.
-- KEYS buckets counts seen
-- ARGV number since_ms seen_ttl_ms buckets_ttl_ms counts_ttl_ms, then per key: name rate burst spent counted
-- Returns per key: tokens left (text; below zero is debt), requests counted today
-- A bucket is held as tokens|ms. What a process spent, it spent in its last since_ms, so the time before that fills
-- the bucket first, and since then after: the bucket stays right over any pause and never forgets a request.
--#include _group
local buckets, counts, seen = KEYS[1], KEYS[2], KEYS[3]
local number, since_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local fresh = tonumber(redis.call('GET', seen) or '0') < number
if fresh then redis.call('SET', seen, ARGV[1], 'PX', ARGV[3]) end

local names = {}
for i = 6, #ARGV, 5 do names[#names + 1] = ARGV[i] end
if #names == 0 then return {} end
local held, counted = redis.call('HMGET', buckets, unpack(names)), redis.call('HMGET', counts, unpack(names))
local now = now_ms()

local function left_in(bucket, rate, burst, spent)
  local tokens, at = string.match(bucket or '', '^(%S+)|(%d+)$')
  tokens, at = tonumber(tokens) or burst, tonumber(at) or now
  local passed = math.max(0, now - at)
  local lately = math.min(passed, since_ms)
  tokens = math.min(burst, tokens + (passed - lately) * rate / 1000)
  return math.min(burst, tokens - spent + lately * rate / 1000)
end

local answer = {}
for n, name in ipairs(names) do
  local i = 1 + n * 5
  local rate, burst = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local spent, more = fresh and tonumber(ARGV[i + 3]) or 0, fresh and tonumber(ARGV[i + 4]) or 0
  local tokens, today = burst, tonumber(counted[n] or '0')
  if rate > 0 then
    tokens = left_in(held[n], rate, burst, spent)
    if spent > 0 then redis.call('HSET', buckets, name, string.format('%.3f|%.0f', tokens, now)) end
  end
  if more ~= 0 then today = redis.call('HINCRBY', counts, name, more) end
  answer[#answer + 1] = string.format('%.3f', tokens)
  answer[#answer + 1] = today
end
redis.call('PEXPIRE', buckets, ARGV[4])
redis.call('PEXPIRE', counts, ARGV[5])
return answer
