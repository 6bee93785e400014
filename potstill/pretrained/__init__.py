"""What a saved model folder is, looked at before anything is loaded.

Here: the files of a folder and which are refused (`files`), its tensors against its class (`weights`), the one look
that init, ingest, training and `potstill inspect` share (`inspection`), how each class of transformers names its
parts (`families`), heads and tasks (`heads`), names of outputs (`output_names`), several teachers in a folder
(`members`).

To support another family of encoders, add it to `families`. Not here: loading and changing models
(`potstill.models`).
"""
