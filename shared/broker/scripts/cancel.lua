#!lua flags=allow-oom
-- Take back requests whose client is gone, waiting or running. A running copy's finish then drops its result.
-- KEYS requests open, then a body per id   ARGV group, then ids
-- Returns how many were still open.
--#include _open
local requests, open = KEYS[1], KEYS[2]
local cancelled = 0
for i = 2, #ARGV do
  local entry_id, bytes, rows = entry_of(open, ARGV[i])
  if entry_id then
    close_request(open, ARGV[i], bytes, rows)
    redis.pcall('XACK', requests, ARGV[1], entry_id)
    redis.pcall('XDEL', requests, entry_id)
    cancelled = cancelled + 1
  end
  redis.call('UNLINK', KEYS[i + 1])
end
return cancelled
