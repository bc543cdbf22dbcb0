/* Stand-in: the options BCC's prelude asks about. */
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_X86_64 1
