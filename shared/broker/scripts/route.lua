#!lua flags=allow-oom
-- Write or delete the routing table of a model, unless it has been changed since it was read, and record the change.
-- KEYS tables history   ARGV model expected revision table who what max_changes
-- `expected` and `revision`: number of the last change that the caller knows, and of this one. An empty `table` deletes
-- it. Returns the ID of the change, which holds its time on the Redis clock, or false if `expected` is not the last one.
local tables, history, model, table_text = KEYS[1], KEYS[2], ARGV[1], ARGV[4]
local last = redis.call('XREVRANGE', history, '+', '-', 'COUNT', 1)[1]
if (last and last[2][2] or '0') ~= ARGV[2] then return false end
local before = redis.call('HGET', tables, model) or ''
if table_text == '' then
  redis.call('HDEL', tables, model)
else
  redis.call('HSET', tables, model, table_text)
end
return redis.call('XADD', history, 'MAXLEN', '~', ARGV[7], '*', 'revision', ARGV[3],
  'who', ARGV[5], 'what', ARGV[6], 'before', before, 'after', table_text)
