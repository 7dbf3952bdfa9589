/* A clock that runs faster, for a program that is started with this preloaded: what the program reads as the time, and what it asks to wait for, is scaled alike.
 *
 * SOAK_SPEED is by how much, a whole number. What is done about time in a Rust program on Linux goes by these functions: clocks by clock_gettime; tokio's timers by epoll_wait;
 * the waits of std, parking_lot and crossbeam by the futex call, through syscall(); sleeping threads by nanosleep and clock_nanosleep. (Debian's libfaketime 0.9.10 leaves futexes
 * alone, so that a wait until a moment of the faster clock would last until the true one gets there.) What does not go by libc keeps the true time: rustix's clock (clock::coarse_ms,
 * for how long ago a stream had its last event), quanta's (limits by rate), and what the kernel times by itself.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static int (*true_clock)(clockid_t, struct timespec *);
static long (*true_syscall)(long, ...);
static int64_t speed = 1, day_began, steady_began; /* ns, by the true clocks */

static int64_t ns(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

static struct timespec spec(int64_t ns) {
    if (ns < 0) ns = 0;
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

/* Called before main, and by whoever asks for the time even earlier. */
__attribute__((constructor)) static void begin(void) {
    if (true_clock) return;
    struct timespec now;
    const char *text = getenv("SOAK_SPEED");
    true_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    int (*clock)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    clock(CLOCK_REALTIME, &now);
    day_began = ns(&now);
    clock(CLOCK_MONOTONIC, &now);
    steady_began = ns(&now);
    if (text && atoll(text) > 0) speed = atoll(text);
    true_clock = clock;
}

static int is_day(clockid_t id) { return id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI; }

static int is_steady(clockid_t id) {
    return id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_MONOTONIC_RAW || id == CLOCK_BOOTTIME;
}

/* The true moment of one by the faster clock. */
static struct timespec true_moment(clockid_t id, const struct timespec *moment) {
    int64_t began = is_day(id) ? day_began : steady_began;
    return spec(began + (ns(moment) - began) / speed);
}

static struct timespec true_span(const struct timespec *span) { return spec((ns(span) + speed - 1) / speed); }

int clock_gettime(clockid_t id, struct timespec *out) {
    begin();
    int failed = true_clock(id, out);
    if (!failed && (is_day(id) || is_steady(id))) {
        int64_t began = is_day(id) ? day_began : steady_began;
        *out = spec(began + (ns(out) - began) * speed);
    }
    return failed;
}

int epoll_wait(int epoll, struct epoll_event *events, int max, int timeout_ms) {
    if (timeout_ms <= 0) return epoll_pwait2(epoll, events, max, timeout_ms < 0 ? NULL : &(struct timespec){0}, NULL);
    struct timespec span = spec((timeout_ms * (SECOND / 1000) + speed - 1) / speed);
    return epoll_pwait2(epoll, events, max, &span, NULL);
}

int poll(struct pollfd *polled, nfds_t count, int timeout_ms) {
    struct timespec span = spec((timeout_ms * (SECOND / 1000) + speed - 1) / speed);
    return ppoll(polled, count, timeout_ms < 0 ? NULL : &span, NULL);
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *wanted, struct timespec *left) {
    begin();
    struct timespec until = flags & TIMER_ABSTIME ? true_moment(id, wanted) : true_span(wanted);
    return true_syscall(SYS_clock_nanosleep, id, flags, &until, left) ? errno : 0;
}

int nanosleep(const struct timespec *wanted, struct timespec *left) {
    int failed = clock_nanosleep(CLOCK_REALTIME, 0, wanted, left);
    if (failed) errno = failed;
    return failed ? -1 : 0;
}

long syscall(long number, ...) {
    begin();
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    struct timespec until;
    if (number == SYS_futex && d) {
        int what = (int)b & FUTEX_CMD_MASK;
        if (what == FUTEX_WAIT || what == FUTEX_WAIT_BITSET) {
            const struct timespec *wanted = (const struct timespec *)d;
            clockid_t clock = (int)b & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
            until = what == FUTEX_WAIT ? true_span(wanted) : true_moment(clock, wanted);
            d = (long)&until;
        }
    }
    return true_syscall(number, a, b, c, d, e, f);
}
