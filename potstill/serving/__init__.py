"""The HTTP service that a Bento runs; the model itself runs in `potstill.inference`.

`service` is BentoML's entry point, `app` has the endpoints, `middleware` handles every request first, `batching` is the
queue to the model. `watcher` counts the traffic, and `shadow` runs a challenger next to the champion. `release`
verifies a Bento's files before the first answer.
"""
