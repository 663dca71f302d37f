"""The HTTP side: thin, without torch or numpy. What is accepted goes on the stream; what comes back goes out.

server.py       processes and sockets: uvicorn
app.py          routes and lifespan
predict.py      POST /predict
formats/        bodies to payloads, replies to bodies
reading.py      the bounded reading of a body
problems.py     errors to responses
lane.py         one model's way to Redis and back: submitter, router, sweep
observer.py     what the whole system looks like, read every half second
pages.py        /healthz /readyz /metrics /stats
"""
