"""The OpenAI-compatible HTTP API. Nothing in here imports Ray; `serving.http_gateway` puts it on Serve.

app.py           the endpoints
requests.py      request bodies, strict
completions.py   generation: whole answers and streams
responses.py     response bodies
detokenize.py    token ids to text, piece by piece, cut at stop strings
middleware.py    API keys and body size, before anything is read
api_keys.py      reading keys; servers keep their digests only
errors.py        errors in OpenAI's shape
backend.py       what all this stands on
"""
