"""What we promised: everything that outlives a process or crosses between two. Data only.

`events` and `commands` are history and what workflow code asks for, `messages` what clients,
workers and the service say to each other, `failures` and `payloads` what they carry,
`subjects` where it travels, `codec` how it becomes bytes and what is refused at the door.
"""
