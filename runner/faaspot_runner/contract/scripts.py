"""The Lua scripts of workers. The platform gives them to Redis, for all spots: one on another host may bring none.

A script that never ends stops the whole server, and one that has written cannot even be killed. So the user of such a
spot may only call by digest what somebody else has loaded (`queue/users.py`).
"""

from __future__ import annotations

import hashlib

# Answers {0} for a wake-up that is nobody's any more, {1, cancelled, data} for one that is ours now, {2, data} for a
# job without a token beside its data: it has to be read, and claimed by the token in it.
#
# The lease's value names this delivery alone, so a claim that is sent again because its answer was lost finds its own;
# a second delivery of the same wake-up carries the same token and must not. XADD comes last: a server that is out of
# memory refuses at SET, the first write that needs any, and nothing has changed.
#
# The user of a spot on another host may only read cancels and only add reports (`queue/users.py`). A script must be
# allowed everything with its KEYS, so these two come as arguments: each is judged by the command that uses it.
CLAIM = """
local token, data = ARGV[1], false
if token == '' then
  data, token = unpack(redis.call('HMGET', KEYS[4], 'data', 'token'))
  if data and not token then return {2, data} end
end
if token then
  local value = token .. ' ' .. ARGV[4]
  if redis.call('SET', KEYS[1], value, 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[1]) == value then
    redis.call('LREM', KEYS[2], 1, ARGV[3])
    redis.call('LREM', KEYS[6], 1, ARGV[3])
    redis.call('ZADD', KEYS[3], '+inf', ARGV[4])
    redis.call('HSET', KEYS[4], 'status', 'started', 'worker_name', ARGV[7])
    redis.call('HSET', KEYS[5], 'state', 'busy', 'current_job', ARGV[3])
    local cancelled = redis.call('EXISTS', ARGV[8])
    if cancelled == 0 then redis.call('XADD', ARGV[9], '*', 'event', ARGV[5] .. token .. ARGV[6]) end
    return {1, cancelled, data}
  end
end
redis.call('LREM', KEYS[2], 1, ARGV[3])
redis.call('LREM', KEYS[6], 1, ARGV[3])
return {0}
"""
RENEW = """
local kept = 0
if redis.call('GET', KEYS[1]) == ARGV[1] then kept = redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {kept, redis.call('EXISTS', ARGV[3])}
"""
# Whoever has the lease: the attempt has its end now. Who else runs it hears at its next renewal to stop. A server that
# is out of memory refuses at the first write, and nothing has changed.
END = """
if ARGV[2] ~= '' then
  redis.call('RPUSH', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
redis.call('XADD', ARGV[10], '*', 'event', ARGV[1])
redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4])
if ARGV[5] ~= '' then redis.call('EXPIRE', KEYS[3], ARGV[5]) end
redis.call('ZREM', KEYS[4], ARGV[6])
redis.call('DEL', KEYS[5])
if ARGV[7] == '' then
  redis.call('HSET', KEYS[6], 'state', 'idle')
  redis.call('HDEL', KEYS[6], 'current_job')
end
redis.call('HINCRBY', KEYS[6], ARGV[8], 1)
redis.call('HINCRBYFLOAT', KEYS[6], 'total_working_time', ARGV[9])
"""
# A lease that another worker has taken meanwhile is its, and so is the job. Without any lease the job is nobody's.
LEAVE = """
redis.call('ZREM', KEYS[3], ARGV[2])
local value = redis.call('GET', KEYS[1])
if not value or value == ARGV[1] then redis.call('DEL', KEYS[1], KEYS[2]) end
"""

SCRIPTS = (CLAIM, RENEW, END, LEAVE)


def digest(script: str) -> str:
    """By which EVALSHA knows it."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
