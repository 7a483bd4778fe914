"""The OpenAI-compatible HTTP API. Nothing in here imports Ray; `serving.http_gateway` puts it on Serve.

app.py           the endpoints
schema.py        request bodies, strict
answers.py       generation: whole answers and streams
shapes.py        response bodies
chat_format.py   messages to token ids, without letting users write control tokens
detokenize.py    token ids to text, piece by piece, cut at stop strings
guard.py         API keys and body size, before anything is read
errors.py        errors in OpenAI's shape
backend.py       what all this stands on
"""
