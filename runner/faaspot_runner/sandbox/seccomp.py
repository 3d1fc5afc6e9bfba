"""Which system calls a sandbox may make: an allow-list, built once, loaded before the interpreter starts.

`zygote_filter` is on everything in a sandbox from its first instruction; it still lets a zygote make
the pid, mount and ipc namespaces of its runs, but mount nothing. `run_filter` comes on top in every run and takes the
namespaces away, too; `watched_filter` is beside the first where no cgroup counts memory.

What is not listed is ENOSYS, as if the kernel were older: programs then fall back. What a hostile program might want
is EPERM. A call of another architecture kills the process.
"""

from __future__ import annotations

import errno
import functools
import socket
import tempfile
from typing import Any

from faaspot_runner.agent.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_DUMPABLE,
)
from faaspot_runner.errors import FeatureMissing


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALLOWED = _names("""
accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres clock_gettime
clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group
faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv
futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid
getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
getrusage getsid getsockname gettid gettimeofday getuid getxattr ioprio_get ioprio_set kill lchown lgetxattr link
linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier mincore
mkdir mkdirat mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock munlockall munmap name_to_handle_at
nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv recv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select send sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area
set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
setrlimit setsid setuid setxattr shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat
sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
utimensat utimes vfork vmsplice wait4 waitid waitpid write writev
""")

MEMORY_IN_A_CGROUP = _names("""
memfd_create mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl
semget semop semtimedop shmat shmctl shmdt shmget
""")
"""Allowed where a cgroup counts the memory that they take; no rlimit does."""

REFUSED = _names("""
acct add_key adjtimex bpf chroot clock_adjtime clock_settime create_module delete_module fanotify_init fanotify_mark
finit_module fsconfig fsmount fsopen fspick get_kernel_syms init_module io_cancel io_destroy io_getevents io_setup
io_submit io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
landlock_add_rule landlock_create_ruleset landlock_restrict_self lookup_dcookie mbind migrate_pages mknod mknodat
modify_ldt mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree perf_event_open personality
pidfd_getfd pivot_root process_madvise process_mrelease process_vm_readv process_vm_writev ptrace query_module
quotactl quotactl_fd reboot request_key set_mempolicy sethostname setdomainname settimeofday stime swapoff swapon
sysfs syslog umount umount2 userfaultfd uselib ustat vhangup
""")
"""EPERM rather than ENOSYS: what a sandbox has no use for, said plainly."""

NAMESPACES = (CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, 0x80)
"""Each clone flag that makes a namespace; 0x80 is CLONE_NEWTIME, which only unshare takes (clone: a signal's bit)."""
OF_A_ZYGOTE = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC

IOCTLS = (
    *(0x5401, 0x5402, 0x5403, 0x5404, 0x540F, 0x5410, 0x5411, 0x5413, 0x5414, 0x541B, 0x5421, 0x5450, 0x5451, 0x5452),
    *(0x8901, 0x8905, 0x8907, 0x8910, 0x8912, 0x8913, 0x8915, 0x8919, 0x891B, 0x8921, 0x8927, 0x8933),
    *(0x80086601, 0x40049409),
)
"""Terminals' attributes, FIONREAD and its like, reading of network interfaces, file flags, FICLONE."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
PROTOCOLS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)
"""Of the internet families. Naming another makes some kernels load a module that nothing else here uses."""
SO_PASSPIDFD, IPPROTO_IPV6 = 76, 41
SOL_SOCKET, SO_SNDBUF, SO_RCVBUF = socket.SOL_SOCKET, socket.SO_SNDBUF, socket.SO_RCVBUF
SO_LINGER = socket.SO_LINGER
SOCKET_OPTIONS = (*range(2, 11), 12, *range(14, 22), *range(28, 32), 34, 35, 37, 42, 46, 60, *range(63, 68))
"""What may be set at the level of the socket: not SO_LINGER, no filters, nothing from SO_PASSPIDFD on."""
OPTION_LEVELS = (socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_UDP)
F_SETPIPE_SZ = 1031
CLONE_FILES, CLONE_THREAD = 0x400, 0x10000
_INT = 0xFFFFFFFF
BINARY_TREE = 2


def programs(*, counted: bool) -> dict[str, bytes]:
    """Those for all of a sandbox, by the name that its launcher knows. `counted`: a cgroup counts its memory.

    Raises FeatureMissing.
    """
    named = {"filter": zygote_filter(counted=counted)}
    return named if counted else {**named, "watched": watched_filter()}


@functools.cache
def zygote_filter(*, counted: bool) -> bytes:
    """The program for all of a sandbox. `counted`: a cgroup counts its memory. Raises FeatureMissing."""
    seccomp = _library()
    program = _program(seccomp, seccomp.ERRNO(errno.ENOSYS))
    for name in ALLOWED + (MEMORY_IN_A_CGROUP if counted else ()):
        _rule(program, seccomp.ALLOW, name)
    for name in REFUSED:
        _rule(program, seccomp.ERRNO(errno.EPERM), name)
    _sockets(program, seccomp)
    _ioctls(program, seccomp)
    _namespaces(program, seccomp)
    return _exported(program)


@functools.cache
def run_filter() -> bytes:
    """The program on top of it for a run: no namespaces. Raises FeatureMissing."""
    seccomp = _library()
    program = _program(seccomp, seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in ("unshare", "setns"):
        _rule(program, refuse, name)
    for flag in NAMESPACES[:-1]:
        _rule(program, refuse, "clone", _masked(seccomp, 0, flag, flag))
    return _exported(program)


@functools.cache
def watched_filter() -> bytes:
    """The program beside the zygote's where no cgroup counts memory and `memory` watches. Raises FeatureMissing.

    Nothing hides: neither a process that only root may look into, nor a thread with descriptors of its own. Pipes and
    sockets, whose sizes cannot be seen, keep their defaults.
    """
    seccomp = _library()
    program = _program(seccomp, seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)
    # 1 is what a run says of itself once its uid has changed.
    conditions = _masked(seccomp, 0, _INT, PR_SET_DUMPABLE), seccomp.Arg(1, seccomp.NE, 1)
    _rule(program, refuse, "prctl", *conditions)
    _rule(program, refuse, "clone", _masked(seccomp, 0, CLONE_THREAD | CLONE_FILES, CLONE_THREAD))
    _rule(program, refuse, "fcntl", _masked(seccomp, 1, _INT, F_SETPIPE_SZ))
    for option in (SO_SNDBUF, SO_RCVBUF):
        # Nothing happens and no error: libraries ask for it as a wish.
        conditions = _masked(seccomp, 1, _INT, SOL_SOCKET), _masked(seccomp, 2, _INT, option)
        _rule(program, seccomp.ERRNO(0), "setsockopt", *conditions)
    return _exported(program)


def _namespaces(program: Any, seccomp: Any) -> None:
    """A zygote forks its runs into new pid, mount and ipc namespaces; no other kind can be made.

    What is mounted in them is not its to say, see `init`.
    """
    refuse = seccomp.ERRNO(errno.EPERM)
    _rule(program, seccomp.ALLOW, "clone", _masked(seccomp, 0, sum(NAMESPACES[:-1]), 0))
    for flag in NAMESPACES[:-1]:
        _rule(program, refuse, "clone", _masked(seccomp, 0, flag, flag))
    for flags in (CLONE_NEWPID, CLONE_NEWNS | CLONE_NEWIPC):
        _rule(program, seccomp.ALLOW, "unshare", _masked(seccomp, 0, _INT, flags))
    _rule(program, seccomp.ALLOW, "setns", _masked(seccomp, 1, _INT, CLONE_NEWPID))
    for flag in NAMESPACES:
        if not flag & OF_A_ZYGOTE:
            _rule(program, refuse, "unshare", _masked(seccomp, 0, flag, flag))
            _rule(program, refuse, "setns", _masked(seccomp, 1, flag, flag))
    _rule(program, refuse, "setns", _masked(seccomp, 1, _INT, 0))


def _sockets(program: Any, seccomp: Any) -> None:
    for name in ("socket", "socketpair"):
        _rule(program, seccomp.ALLOW, name, _masked(seccomp, 0, _INT, AF_UNIX))
    for family in (AF_INET, AF_INET6):
        for protocol in PROTOCOLS:
            conditions = _masked(seccomp, 0, _INT, family), _masked(seccomp, 2, _INT, protocol)
            _rule(program, seccomp.ALLOW, "socket", *conditions)
    # NETLINK_ROUTE: getaddrinfo asks it which addresses there are.
    _rule(program, seccomp.ALLOW, "socket", _masked(seccomp, 0, _INT, AF_NETLINK), _masked(seccomp, 2, _INT, 0))
    # Not SO_PASSPIDFD and SO_PEERPIDFD: the pidfd of a socket's other end would be one of a host process.
    _rule(program, seccomp.ALLOW, "getsockopt", seccomp.Arg(2, seccomp.LT, SO_PASSPIDFD))
    for name in ("getsockopt", "setsockopt"):
        _rule(program, seccomp.ALLOW, name, _masked(seccomp, 1, _INT, IPPROTO_IPV6))
    for level in OPTION_LEVELS:
        conditions = _masked(seccomp, 1, _INT, level), seccomp.Arg(2, seccomp.LT, SO_PASSPIDFD)
        _rule(program, seccomp.ALLOW, "setsockopt", *conditions)
    for option in SOCKET_OPTIONS:
        conditions = _masked(seccomp, 1, _INT, SOL_SOCKET), _masked(seccomp, 2, _INT, option)
        _rule(program, seccomp.ALLOW, "setsockopt", *conditions)
    # Closing a lingering socket blocks, and who closes one last may be we: it can be sent to us over a channel.
    conditions = _masked(seccomp, 1, _INT, SOL_SOCKET), _masked(seccomp, 2, _INT, SO_LINGER)
    _rule(program, seccomp.ERRNO(0), "setsockopt", *conditions)


def _ioctls(program: Any, seccomp: Any) -> None:
    for command in IOCTLS:
        _rule(program, seccomp.ALLOW, "ioctl", _masked(seccomp, 1, _INT, command))
    for command in (TIOCSTI, TIOCLINUX):
        _rule(program, seccomp.ERRNO(errno.EPERM), "ioctl", _masked(seccomp, 1, _INT, command))


def _masked(seccomp: Any, argument: int, mask: int, value: int) -> Any:
    """Compare only the bits that the kernel looks at: a register's upper half is the caller's to fill."""
    return seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value)


def _rule(program: Any, action: Any, name: str, *conditions: Any) -> None:
    number = _library().resolve_syscall(_library().Arch.NATIVE, name)
    # A name that this libseccomp does not know (-1) stays what is not listed: ENOSYS.
    if number != -1:
        program.add_rule(action, number, *conditions)


def _program(seccomp: Any, default: Any) -> Any:
    program = seccomp.SyscallFilter(default)
    program.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    program.set_attr(seccomp.Attr.CTL_OPTIMIZE, BINARY_TREE)
    return program


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise FeatureMissing(
            "libseccomp", f"install it (Debian and Ubuntu: apt-get install libseccomp2); {error}"
        ) from None
    return pyseccomp


def _exported(program: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
