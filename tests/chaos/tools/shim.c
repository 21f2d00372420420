/* Stands between a node and libc's fsync and fdatasync. The environment names a rule file (DISKFAULT_RULE), read
 * again at each call, and a log (DISKFAULT_LOG) that gets one line per injected error:
 *     none | slow MILLISECONDS | error ERRNO PERCENT | lie | kill-before NUMBER | kill-after NUMBER
 * The last two kill the process at its so-manieth sync since the rule was first read.
 * A third word limits a rule to files whose path contains it. Compiled when needed:
 *     cc -shared -fPIC -O1 -o shim.so shim.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct rule {
    char kind[16];
    int first, second;
    char only[64];
};

static struct rule current(void)
{
    struct rule rule = {"none", 0, 0, ""};
    const char *path = getenv("DISKFAULT_RULE");
    char text[128];
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return rule;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size > 0) {
        text[size] = 0;
        sscanf(text, "%15s %d %d %63s", rule.kind, &rule.first, &rule.second, rule.only);
    }
    return rule;
}

static void path_of(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length > 0 ? length : 0] = 0;
}

static int hit(int percent)
{
    unsigned dice = 0;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, &dice, sizeof dice) < 0)
            dice = 0;
        close(fd);
    }
    return (int)(dice % 100) < percent;
}

static void note(const char *what, const char *path)
{
    const char *log = getenv("DISKFAULT_LOG");
    int fd = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    struct timespec now;
    char line[512];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof line, "%ld.%03ld %s %s\n", (long)now.tv_sec, now.tv_nsec / 1000000, what, path);
    if (write(fd, line, size) < 0)
        errno = 0;
    close(fd);
}

static int dies_now(struct rule rule)
{
    static atomic_int count;
    return atomic_fetch_add(&count, 1) + 1 == rule.first;
}

static int synced(int fd, const char *name)
{
    struct rule rule = current();
    int dies_after = 0;
    char path[384];
    path_of(fd, path, sizeof path);
    if (rule.only[0] == 0 || strstr(path, rule.only)) {
        if (!strcmp(rule.kind, "slow")) {
            struct timespec pause = {rule.first / 1000, (long)(rule.first % 1000) * 1000000};
            nanosleep(&pause, NULL);
        } else if (!strcmp(rule.kind, "lie")) {
            return 0;
        } else if (!strcmp(rule.kind, "error") && hit(rule.second)) {
            note(name, path);
            errno = rule.first;
            return -1;
        } else if (!strcmp(rule.kind, "kill-before") && dies_now(rule)) {
            raise(SIGKILL);
        } else if (!strcmp(rule.kind, "kill-after")) {
            dies_after = dies_now(rule);
        }
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int done = real(fd);
    if (dies_after)
        raise(SIGKILL);
    return done;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
