"""The kernel laboratory: which form of a stored kernel learns a known kernel fastest?

`targets` and `inputs` say what is learned from what, `arms` who learns and with which learning rate, `bank` holds all
arms, `measures` judges them, `record` and `figures` keep one fit, `leaderboard` compares many, `task` is the spine.
"""
