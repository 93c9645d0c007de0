"""The kernel laboratory: which form of a stored kernel learns a known kernel fastest?

`schema` and `checks` say what may be typed, `targets` and `inputs` what is learned from what, with random numbers of
`draws`, `arms` who learns and with which learning rate. `bank` holds all arms, `measures` judges them, `results` and
`figures` keep one fit, `ranking` and `leaderboard` compare many, `task` is the spine. `forms` compares networks.
"""
