"""The HTTP service: what a Bento runs besides the model.

`service` is BentoML's entry, `app` the endpoints, `front` what each request passes first, `batching` the queue to the
model, `watcher` and `shadow` what is counted next to it. `release` proves a Bento's own files before the first answer.
The runtime itself is `potstill.inference`.
"""
