"""Files of any size and streams, answered by a registered student: read and written piece by piece, never held whole.

`input_files` finds and opens files, `input_rows` reads their rows and puts bad ones aside, `row_windows` cuts them into
windows. `window_scoring` answers them on all cores, `answer_columns` makes columns of the answers, and
`output_rows` writes them in the format of the output. `output_parts` keeps what is finished next to the output, so that
a killed run goes on. `file_prediction` joins all of this, and `folder_prediction` does so for each file that arrives.

`redis_streams` reads the records of a stream and writes the answers, `record_scoring` makes these, and
`stream_prediction` goes on doing both. `arrival_metrics` counts what a stream or a folder brings. `alert_rules` judges
windows of answers, and `alerting` counts them and tells of each broken rule once. The HTTP service is in
`potstill.serving`.
"""
