"""From a trained student to the file that ships.

ONNX in fp32 (`onnx_model`), INT8 (`quantize`) and 4-bit embeddings (`four_bits`); whether the exported model answers as
the trained one (`logit_parity`); how large it will be, before anything is trained (`size`).
"""
