"""The typed form of `params.yaml`: a module for each section or group of sections.

Strict: an unknown key, a wrong type or an impossible combination is refused before any work, with the key, the value
and what is allowed. Every section is named as the stage that receives it; `project` is given to all.
"""
