/* What benchmarks/faults.py loads before everything else (LD_PRELOAD): it sees each change that a process makes to the
 * files below one folder, in the order in which they are made.
 *
 * Asleep until faults_arm(). Then every open with O_CREAT or O_TRUNC, write, truncate, fsync, rename, link, unlink,
 * mkdir and rmdir below `root` is one operation, and
 *   - is appended to the file `log`, with all it wrote (log < 0: not);
 *   - before operation number `at` the process gets `sig`: SIGKILL to its whole group, halfway through a write;
 *     SIGINT, as a terminal sends it, to the group; SIGTERM to itself;
 *   - from operation number `at` on the clock of the wall says `back` seconds less (back > 0).
 * Not seen: writes through mmap, and those that libc makes inside itself (stdio, copy_file_range). faults.py checks each
 * recording: played back in full it must give the folder as it is.
 *
 * A record: uint8 operation, int64 inode, int64 offset, uint32 length of the path, uint32 length of the rest; both.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static char root[PATH_MAX];
static pid_t owner;
static int log_file = -1, sig;
static long at, count;
static volatile long back;
static volatile int jumped;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

void faults_arm(const char *folder, int log, long number, int signal_, long seconds) {
    snprintf(root, sizeof root, "%s/", folder);
    log_file = log, at = number, sig = signal_, back = seconds, count = 0, jumped = 0;
    owner = getpid();
}

long faults_count(void) { return count; }

static int below(const char *path) {
    size_t n = strlen(root) - 1;
    return owner == getpid() && strncmp(path, root, n) == 0 && (path[n] == '/' || !path[n]);
}

/* The absolute path of a name, or whether it is none of ours. */
static int resolve(int folder, const char *name, char *out) {
    char link[64];
    if (owner != getpid()) return 0;
    if (name[0] == '/') snprintf(out, PATH_MAX, "%s", name);
    else {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, out, PATH_MAX - 2);
        if (n < 0) return 0;
        snprintf(out + n, PATH_MAX - n, "/%s", name);
    }
    return below(out);
}

static int ours(int file) {
    char link[64], path[PATH_MAX];
    if (owner != getpid() || file == log_file) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

static void raise_(void) { kill(sig == SIGTERM ? getpid() : 0, sig); }

/* Called with the lock held, before the operation. True: it is the one at which the process is to die. */
static int due(void) {
    if (++count != at) return 0;
    if (back > 0) jumped = 1;
    return sig != 0;
}

static void note(char operation, int64_t inode, int64_t offset, const char *path, const void *rest, uint32_t size) {
    if (log_file < 0) return;
    uint32_t length = path ? strlen(path) : 0;
    char head[25];
    head[0] = operation;
    memcpy(head + 1, &inode, 8), memcpy(head + 9, &offset, 8), memcpy(head + 17, &length, 4), memcpy(head + 21, &size, 4);
    struct iovec parts[3] = {{head, 25}, {(void *)path, length}, {(void *)rest, size}};
    syscall(SYS_writev, log_file, parts, 3);
}

static int64_t inode_of(int file) {
    struct stat about;
    return fstat(file, &about) ? 0 : (int64_t)about.st_ino;
}

/* One operation on a path: `call` is made between the signal and the note. */
#define ON_PATH(folder, name, call, letter, rest, size)                  \
    char path_[PATH_MAX];                                                \
    if (!resolve(folder, name, path_)) return call;                      \
    pthread_mutex_lock(&lock);                                           \
    if (due()) raise_();                                                 \
    int result_ = call;                                                  \
    if (result_ >= 0) {                                                  \
        int kept_ = errno;                                               \
        note(letter, 0, 0, path_, rest, size);                           \
        errno = kept_;                                                   \
    }                                                                    \
    pthread_mutex_unlock(&lock);                                         \
    return result_;

static int opened(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int plain = !(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE;
    if (plain || !resolve(folder, name, path)) return REAL(openat)(folder, name, flags, mode);
    pthread_mutex_lock(&lock);
    if (due()) raise_();
    int file = REAL(openat)(folder, name, flags, mode);
    if (file >= 0) note(flags & O_TRUNC ? 'T' : 'C', inode_of(file), 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return file;
}

#define MODE(last)                                                       \
    mode_t mode = 0;                                                     \
    if (flags & (O_CREAT | O_TMPFILE)) {                                 \
        va_list more;                                                    \
        va_start(more, last);                                            \
        mode = va_arg(more, mode_t);                                     \
        va_end(more);                                                    \
    }

int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static ssize_t written(int file, const void *data, size_t size, off_t offset, int placed) {
    pthread_mutex_lock(&lock);
    if (due()) {
        if (sig == SIGKILL) placed ? REAL(pwrite)(file, data, size / 2, offset) : REAL(write)(file, data, size / 2);
        raise_();
    }
    struct stat about;
    if (!placed) {
        if (fcntl(file, F_GETFL) & O_APPEND) offset = fstat(file, &about) ? 0 : about.st_size;
        else offset = lseek(file, 0, SEEK_CUR);
    }
    ssize_t done = placed ? REAL(pwrite)(file, data, size, offset) : REAL(write)(file, data, size);
    int kept = errno;
    if (done > 0) note('W', inode_of(file), offset, NULL, data, done);
    errno = kept;
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int file, const void *data, size_t size) {
    return ours(file) ? written(file, data, size, 0, 0) : REAL(write)(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    return ours(file) ? written(file, data, size, offset, 1) : REAL(pwrite)(file, data, size, offset);
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) { return pwrite(file, data, size, offset); }

ssize_t writev(int file, const struct iovec *parts, int number) {
    if (!ours(file)) return REAL(writev)(file, parts, number);
    ssize_t total = 0;
    for (int i = 0; i < number; i++) {
        ssize_t done = written(file, parts[i].iov_base, parts[i].iov_len, 0, 0);
        if (done < 0) return total ? total : done;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

#define ON_FILE(file, call, letter, offset)                              \
    if (!ours(file)) return call;                                        \
    pthread_mutex_lock(&lock);                                           \
    if (due()) raise_();                                                 \
    int result_ = call, kept_ = errno;                                   \
    if (!result_) note(letter, inode_of(file), offset, NULL, NULL, 0);   \
    errno = kept_;                                                       \
    pthread_mutex_unlock(&lock);                                         \
    return result_;

int ftruncate(int file, off_t size) { ON_FILE(file, REAL(ftruncate)(file, size), 'L', size) }
int ftruncate64(int file, off_t size) { return ftruncate(file, size); }

int fsync(int file) {
    char link[64], path[PATH_MAX];
    if (!ours(file)) return REAL(fsync)(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    pthread_mutex_lock(&lock);
    if (due()) raise_();
    int result = REAL(fsync)(file), kept = errno;
    if (!result) note('S', inode_of(file), 0, path, NULL, 0); /* a folder is known by its path */
    errno = kept;
    pthread_mutex_unlock(&lock);
    return result;
}

int fdatasync(int file) { return fsync(file); }

int renameat(int from, const char *name, int to, const char *target) {
    char there[PATH_MAX];
    if (!resolve(to, target, there)) return REAL(renameat)(from, name, to, target);
    ON_PATH(from, name, REAL(renameat)(from, name, to, target), 'R', there, strlen(there))
}

int rename(const char *name, const char *target) { return renameat(AT_FDCWD, name, AT_FDCWD, target); }
int unlink(const char *name) { ON_PATH(AT_FDCWD, name, REAL(unlink)(name), 'U', NULL, 0) }
int unlinkat(int folder, const char *name, int flags) {
    ON_PATH(folder, name, REAL(unlinkat)(folder, name, flags), 'U', NULL, 0)
}
int rmdir(const char *name) { ON_PATH(AT_FDCWD, name, REAL(rmdir)(name), 'U', NULL, 0) }
int mkdir(const char *name, mode_t mode) { ON_PATH(AT_FDCWD, name, REAL(mkdir)(name, mode), 'M', NULL, 0) }
int mkdirat(int folder, const char *name, mode_t mode) {
    ON_PATH(folder, name, REAL(mkdirat)(folder, name, mode), 'M', NULL, 0)
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = REAL(clock_gettime)(which, now);
    if (jumped && which == CLOCK_REALTIME && !result) now->tv_sec -= back;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = REAL(gettimeofday)(now, zone);
    if (jumped && !result) now->tv_sec -= back;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
