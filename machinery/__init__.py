"""What keeps the promises of the project: exact resumes, whole files, errors told in plain lines.

Nobody has to edit it; what is to be edited stands beside it. Its rooms: `config` reads and checks a
config, `order` says which samples come when and from which seeds, `update` holds what one update
needs, `checks` looks for mistakes before a run can suffer from them, `checkpoints` keeps files and
run folders. Beside the rooms is what all of them use: errors, files, signals, the processes.
"""
