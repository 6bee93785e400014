"""Export of a trained model to ONNX: of the student, and of the teacher it is compared with.

`onnx_model` writes the fp32 model, `eight_bits` its INT8 form and `four_bits` embeddings of 4 bits; `variants` writes
both files. `logit_parity` compares exported and trained model on dev, and `choice` says which variant ships.
`serving_folder` lays out what is served. `size` estimates the size of the file before anything is trained.

`browser_folder` and `openvino_folder` write a student for other runtimes, with `block_weights` and `target_files`;
`label_check` says whether its answers are still those of fp32.
"""
