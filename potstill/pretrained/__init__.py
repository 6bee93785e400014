"""Inspection of a saved model folder before anything is loaded.

Here: the files of a folder and which of them are refused (`files`), its tensors compared with its class (`weights`),
the inspection that init, ingest, training and `potstill inspect` share (`inspection`), where each class of
transformers has its parts (`families`), heads and tasks (`heads`), names of outputs (`output_names`), the output layer
(`output_layer`), and the members of an ensemble of teachers (`members`).

To support another family of encoders, add it to `families`. Not here: loading and changing models
(`potstill.models`).
"""
