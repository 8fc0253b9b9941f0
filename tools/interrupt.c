/* Interrupts: see interrupt.h. The handler only notes; waiting is done by ppoll(), which takes the
 * signals in only while it sleeps, so none slips through between the look and the sleep. Calls that
 * wait elsewhere (SA_RESTART) go on, and the alarm ends those that take too long. */
#include "tools/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static volatile sig_atomic_t unlimited; /* time */

static void die_of(int number)
{
    sigset_t set;

    signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void handle(int number)
{
    int saved = errno;

    if (number == SIGALRM || caught != 0)
        die_of(caught != 0 ? caught : number);
    caught = number;
    if (!unlimited)
        alarm(INTERRUPT_GRACE);
    errno = saved;
}

static void catch (int number)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART}, old;

    sigaction(number, NULL, &old);
    if (old.sa_handler != SIG_IGN)
        sigaction(number, &action, NULL);
}

void interrupt_catch(void)
{
    catch (SIGINT);
    catch (SIGTERM);
    catch (SIGALRM);
}

bool interrupt_seen(void)
{
    return caught != 0;
}

int interrupt_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    const struct timespec timeout = {.tv_sec = timeout_ms / 1000,
                                     .tv_nsec = timeout_ms % 1000 * 1000000L};
    sigset_t ours, before;
    int r;

    sigemptyset(&ours);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGTERM);
    sigprocmask(SIG_BLOCK, &ours, &before);
    do {
        if (caught != 0)
            r = -EINTR;
        else if ((r = ppoll(fds, n, timeout_ms >= 0 ? &timeout : NULL, &before)) < 0)
            r = -errno;
    } while (r == -EINTR && caught == 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}

int interrupt_outwait(struct pollfd *fds, nfds_t n)
{
    int r;

    unlimited = 1;
    alarm(0);
    while ((r = poll(fds, n, -1)) < 0 && errno == EINTR)
        ;
    if (r < 0)
        r = -errno;
    unlimited = 0;
    if (caught != 0)
        alarm(INTERRUPT_GRACE);
    return r;
}

void interrupt_die(void)
{
    die_of(caught);
    exit(128 + caught);
}
