"""The clients' side: thin, without torch or numpy. What is accepted goes on the stream; what comes back goes out.

server.py       processes and sockets: uvicorn
http/           one connection: what it may cost, how it ends; the doorman looks after all of them
app.py          routes and lifespan
asking.py       one request that runs a model, step by step, whatever its protocol; endpoint.py drives it by ASGI,
                http/prompt.py without; askings.py has which requests those are
prediction.py   POST /predict
oip/            the Open Inference Protocol: REST, and what gRPC shares with it
rpc/            the same over gRPC, in a process of its own
formats/        bodies to payloads, replies to bodies
reading.py      the bounded reading of a body; receiving.py bounds all that are being read
problems.py     errors to responses; request_log.py has a line for each
tracing.py      spans, where they are wanted
lane.py         one model's way to Redis and back: submitter, router, sweep
observer.py     what the whole system looks like, read every half second
docs/           GET /docs
pages.py        /healthz /readyz /stats /openapi.json
metrics.py      /metrics; meters.py and process_meters.py count for it
openapi.py      that document, made from response_types.py, the errors and the settings
"""
