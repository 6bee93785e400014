"""Files of any size, answered by a registered student: read and written in windows, never held whole.

`input_files` finds and opens files, `input_rows` reads their rows and puts bad ones aside, `row_windows` cuts them into
windows. `window_scoring` answers them on all cores, `answer_columns` makes columns of the answers, and
`output_rows` writes them in the format of the output. `output_parts` keeps what is finished next to the output, so that
a killed run goes on. `file_prediction` joins all of this. The HTTP service is in `potstill.serving`.
"""
