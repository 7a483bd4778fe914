"""Policy and reward models on Ray Serve: for people over HTTP, for online RL through handles, with live weight updates.

Begin with `engine/torch_engine.py`, continuous batching over a Hugging Face model, and `policy.py`, the deployment
around it.

    engine/             prompts in, sampled tokens out; imports no Ray
    policy.py           the deployment of a policy: a replica is one engine
    reward.py           the deployment of a reward model
    answers.py          answers from finished models, one after another
    weight_updates/     new weights to every replica: who owns them, and how they travel

    rollout_client.py   the servers that stages call, and their clients
    http_gateway.py     both servers behind HTTP: what `raymill serve` runs
    openai_api/         the HTTP API itself, in OpenAI's shapes; imports no Ray
    terminal_chat.py    a client of that API in the terminal: what `raymill chat` runs

    config.py           what a spec says about servers, and the limits of HTTP requests
    models.py           loading a model directory
    deploy.py           starting and removing Serve applications
    remote_errors.py    a replica's deliberate errors, as it raised them
"""
