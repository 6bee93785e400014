"""The engine of a run: DVC's graph, a stage's process, Prefect's flow and server, the MLflow recorder.

`pipeline_run` holds a workspace for one run. `prefect_flow` is the flow over it. `stage_process` is the child process
in which a stage or step runs. `dvc_graph` says which stages are stale.
"""
