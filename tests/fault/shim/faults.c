/* Faults of files and of the clock, for a server that does not know of them: loaded into it with LD_PRELOAD.
 *
 * Files at or below $TREEHEAD_FAULT_ROOT are followed, by path when they are opened and by descriptor from then on;
 * everything else passes at the cost of a look-up. A call that changes a followed file is a *step*: the file's name below
 * the root, and what is done to it. Steps happen one at a time, under a lock, so that their order is the trace's order.
 *
 *     $TREEHEAD_FAULT_CONTROL   a file of `struct control`, mapped by us and by the test, which arms a fault in it
 *     $TREEHEAD_FAULT_NOTICE    a named pipe, which gets one byte when the fault happens
 *     $TREEHEAD_FAULT_TRACE     a file that gets a record of every step that took effect; none if it is not set
 *
 * tests/fault/preload.py and tests/fault/trace.py are the other side of these layouts. The shared memory of SQLite
 * (-shm) is no file in this sense: its contents are never what is recovered from.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum operation { CREATE = 1, WRITE = 2, TRUNCATE = 4, SYNC = 8, RENAME = 16, UNLINK = 32 };

enum action {
    NOTHING = 0,
    KILL_BEFORE = 1, /* the process dies, and the call had no effect */
    KILL_AFTER = 2,  /* the process dies, and the call had its effect */
    KILL_HALF = 3,   /* the process dies half-way through a write */
    FAIL_BEFORE = 4, /* the call fails, and had no effect */
    FAIL_AFTER = 5,  /* the call fails, and yet had its effect */
    FAIL_DOOMED = 6, /* a sync fails, and what was not synced is never going to be */
    SHORT = 7,       /* a write takes half of what it was given, and says so */
    FULL = 8,        /* from here on there is no room on the disk, until `full` is taken back */
};

struct control {
    uint32_t armed;
    uint32_t operations; /* those of them that count */
    uint32_t action;
    int32_t error;      /* what a call that fails says */
    uint32_t lasting;   /* it fails from then on every time */
    uint32_t then_kill; /* the process dies before the step after the fault */
    uint32_t fired;
    uint32_t full;
    int64_t countdown; /* the fault happens when this reaches 0 */
    int64_t clock_offset_ns;
    char file[64]; /* a pattern, as of a shell */
};

enum record_kind {
    RECORD_OPEN = 1,
    RECORD_WRITE = 2,
    RECORD_TRUNCATE = 3,
    RECORD_SYNC = 4,
    RECORD_RENAME = 5,
    RECORD_UNLINK = 6,
    RECORD_SYNC_DOOMED = 7,
};

enum open_flags { OPEN_CREATED = 1, OPEN_SYNCED = 2 };

struct record {
    uint32_t kind;
    uint32_t flags;
    uint64_t inode;
    uint64_t offset; /* of a write; the new size of a truncation */
    uint64_t length; /* of what follows: the bytes written, the name opened, or two names with a NUL between them */
};

struct file {
    char name[96]; /* below the root; "." is the root itself */
    uint64_t inode;
};

#define DESCRIPTORS_MAX 65536
#define FILES_MAX 4096

static struct file files[FILES_MAX];
static unsigned files_used;
static uint16_t file_of[DESCRIPTORS_MAX]; /* the number of a file and 1; 0: not followed */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control *control;
static const char *root;
static size_t root_length;
static int notice = -1, trace = -1;

#define REAL(name) __typeof__(&name) real_##name
static REAL(open);
static REAL(openat);
static REAL(close);
static REAL(write);
static REAL(pwrite);
static REAL(writev);
static REAL(pwritev2);
static REAL(fsync);
static REAL(fdatasync);
static REAL(ftruncate);
static REAL(fallocate);
static REAL(renameat2);
static REAL(unlinkat);
static REAL(clock_gettime);

static void give_up(const char *why)
{
    dprintf(STDERR_FILENO, "the shim of the fault tests cannot go on: %s\n", why);
    abort();
}

static void *find(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        give_up(name);
    return found;
}

__attribute__((constructor)) static void begin(void)
{
    if (real_open != NULL)
        return;
    real_openat = find("openat64");
    real_close = find("close");
    real_write = find("write");
    real_pwrite = find("pwrite64");
    real_writev = find("writev");
    real_pwritev2 = find("pwritev64v2");
    real_fsync = find("fsync");
    real_fdatasync = find("fdatasync");
    real_ftruncate = find("ftruncate64");
    real_fallocate = find("fallocate64");
    real_renameat2 = find("renameat2");
    real_unlinkat = find("unlinkat");
    real_clock_gettime = find("clock_gettime");
    real_open = find("open64");
    const char *path = getenv("TREEHEAD_FAULT_CONTROL");
    if (path == NULL || (root = getenv("TREEHEAD_FAULT_ROOT")) == NULL)
        return;
    root_length = strlen(root);
    int descriptor = real_open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        give_up(path);
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    real_close(descriptor);
    if (mapped == MAP_FAILED)
        give_up("mmap");
    if ((path = getenv("TREEHEAD_FAULT_NOTICE")) != NULL && (notice = real_open(path, O_WRONLY | O_CLOEXEC)) < 0)
        give_up(path);
    path = getenv("TREEHEAD_FAULT_TRACE");
    if (path != NULL && (trace = real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) < 0)
        give_up(path);
    control = mapped;
}

/* --- which files --------------------------------------------------------------------------------------------------- */

/* The name below the root of a path, or NULL if it is not followed. */
static const char *name_of(int folder, const char *path)
{
    begin();
    if (control == NULL || path == NULL || (folder != AT_FDCWD && path[0] != '/'))
        return NULL;
    if (strncmp(path, root, root_length) != 0)
        return NULL;
    const char *rest = path + root_length;
    if (*rest == '\0' || (rest[0] == '/' && rest[1] == '\0'))
        return ".";
    if (*rest != '/')
        return NULL;
    size_t length = strlen(rest + 1);
    if (length >= sizeof files[0].name)
        give_up("a name is too long");
    if (length >= 4 && strcmp(rest + 1 + length - 4, "-shm") == 0)
        return NULL;
    return rest + 1;
}

static const struct file *followed(int descriptor)
{
    begin();
    if (control == NULL || descriptor < 0 || descriptor >= DESCRIPTORS_MAX || file_of[descriptor] == 0)
        return NULL;
    return &files[file_of[descriptor] - 1];
}

static uint64_t size_of(int descriptor)
{
    struct stat status;
    return fstat(descriptor, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void follow(int descriptor, const char *name)
{
    struct stat status;
    if (descriptor >= DESCRIPTORS_MAX || fstat(descriptor, &status) != 0)
        give_up("a descriptor cannot be followed");
    unsigned number = 0;
    while (number < files_used && (files[number].inode != status.st_ino || strcmp(files[number].name, name) != 0))
        number++;
    if (number == files_used) {
        if (files_used == FILES_MAX)
            give_up("too many files");
        strcpy(files[number].name, name);
        files[number].inode = status.st_ino;
        files_used++;
    }
    file_of[descriptor] = (uint16_t)(number + 1);
}

/* --- the trace ----------------------------------------------------------------------------------------------------- */

static void put_record(enum record_kind kind, uint32_t flags, uint64_t inode, uint64_t offset, const void *data,
                       size_t length)
{
    if (trace < 0)
        return;
    struct record record = {kind, flags, inode, offset, length};
    struct iovec parts[] = {{&record, sizeof record}, {(void *)data, length}};
    if (real_writev(trace, parts, 2) != (ssize_t)(sizeof record + length))
        give_up("the trace cannot be written");
}

static void put_names(enum record_kind kind, const char *from, const char *to)
{
    char names[2 * sizeof files[0].name];
    int length = snprintf(names, sizeof names, "%s%c%s", from, '\0', to);
    put_record(kind, 0, 0, 0, names, kind == RECORD_RENAME ? (size_t)length : strlen(from));
}

/* --- the fault ----------------------------------------------------------------------------------------------------- */

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* With the lock held: what is to become of this step. */
static enum action meet(enum operation operation, const char *name)
{
    if (control->then_kill == 2)
        die();
    if (control->full && operation == CREATE) {
        control->error = ENOSPC;
        return FAIL_BEFORE;
    }
    if (!control->armed || !(control->operations & operation) || fnmatch(control->file, name, 0) != 0)
        return NOTHING;
    if (control->countdown > 0)
        control->countdown--;
    if (control->countdown > 0 || (control->fired && !control->lasting))
        return NOTHING;
    if (!control->fired) {
        control->fired = 1;
        if (notice >= 0)
            (void)!real_write(notice, "!", 1);
    }
    if (control->then_kill == 1)
        control->then_kill = 2;
    switch (control->action) {
    case KILL_BEFORE:
        die();
        break;
    case KILL_HALF:
    case SHORT:
        return operation == WRITE ? (enum action)control->action : NOTHING;
    case FULL:
        control->full = 1;
        control->error = ENOSPC;
        return operation == CREATE ? FAIL_BEFORE : NOTHING;
    default:
        break;
    }
    return (enum action)control->action;
}

/* With the lock held, which it gives back: the end of a step whose call returned `result`. */
static ssize_t leave(enum action action, ssize_t result)
{
    int error = errno;
    if (action == KILL_AFTER || action == KILL_HALF)
        die();
    if (action == FAIL_BEFORE || action == FAIL_AFTER || action == FAIL_DOOMED) {
        error = control->error;
        result = -1;
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

/* --- opening and closing ------------------------------------------------------------------------------------------- */

static int open_followed(int folder, const char *path, int flags, mode_t mode)
{
    const char *name = name_of(folder, path);
    if (name == NULL)
        return real_openat(folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) && access(path, F_OK) != 0;
    int is_cut = !is_new && (flags & O_TRUNC) && access(path, F_OK) == 0;
    enum action action = NOTHING;
    if (is_new || is_cut)
        action = meet(is_new ? CREATE : TRUNCATE, name);
    int descriptor = -1;
    if (action != FAIL_BEFORE && (descriptor = real_openat(folder, path, flags, mode)) >= 0) {
        follow(descriptor, name);
        uint64_t inode = followed(descriptor)->inode;
        uint32_t how = (is_new ? OPEN_CREATED : 0) | (flags & (O_SYNC | O_DSYNC) ? OPEN_SYNCED : 0);
        put_record(RECORD_OPEN, how, inode, 0, name, strlen(name));
        if (is_cut)
            put_record(RECORD_TRUNCATE, 0, inode, 0, NULL, 0);
        if (action == FAIL_AFTER) {
            file_of[descriptor] = 0;
            real_close(descriptor);
        }
    }
    return (int)leave(action, descriptor);
}

#define OPENS(declaration, folder)                         \
    declaration                                            \
    {                                                      \
        mode_t mode = 0;                                   \
        if (flags & (O_CREAT | O_TMPFILE)) {               \
            va_list rest;                                  \
            va_start(rest, flags);                         \
            mode = va_arg(rest, mode_t);                   \
            va_end(rest);                                  \
        }                                                  \
        return open_followed(folder, path, flags, mode);   \
    }

OPENS(int open(const char *path, int flags, ...), AT_FDCWD)
OPENS(int open64(const char *path, int flags, ...), AT_FDCWD)
OPENS(int openat(int folder, const char *path, int flags, ...), folder)
OPENS(int openat64(int folder, const char *path, int flags, ...), folder)

int __open_2(const char *path, int flags) { return open_followed(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_followed(AT_FDCWD, path, flags, 0); }

int creat(const char *path, mode_t mode) { return open_followed(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int descriptor)
{
    if (followed(descriptor) != NULL)
        file_of[descriptor] = 0;
    return real_close(descriptor);
}

/* --- writing ------------------------------------------------------------------------------------------------------- */

static ssize_t write_followed(const struct file *file, int descriptor, const void *data, size_t length, off_t offset)
{
    pthread_mutex_lock(&lock);
    enum action action = meet(WRITE, file->name);
    ssize_t written = -1;
    if (action != FAIL_BEFORE) {
        uint64_t size = size_of(descriptor);
        int is_plain = offset < 0;
        if (is_plain)
            offset = fcntl(descriptor, F_GETFL) & O_APPEND ? (off_t)size : lseek(descriptor, 0, SEEK_CUR);
        if (control->full && (uint64_t)offset + length > size) {
            control->error = ENOSPC;
            return leave(FAIL_BEFORE, -1);
        }
        size_t taken = (action == KILL_HALF || action == SHORT) && length > 1 ? length / 2 : length;
        written = is_plain ? real_write(descriptor, data, taken) : real_pwrite(descriptor, data, taken, offset);
        if (written > 0)
            put_record(RECORD_WRITE, 0, file->inode, (uint64_t)offset, data, (size_t)written);
    }
    return leave(action, written);
}

ssize_t write(int descriptor, const void *data, size_t length)
{
    const struct file *file = followed(descriptor);
    return file == NULL ? real_write(descriptor, data, length) : write_followed(file, descriptor, data, length, -1);
}

ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset)
{
    const struct file *file = followed(descriptor);
    return file == NULL ? real_pwrite(descriptor, data, length, offset)
                        : write_followed(file, descriptor, data, length, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset)
{
    return pwrite64(descriptor, data, length, offset);
}

/* As one write of all parts. */
static ssize_t write_parts(const struct file *file, int descriptor, const struct iovec *parts, int count, off_t offset)
{
    size_t length = 0;
    for (int at = 0; at < count; at++)
        length += parts[at].iov_len;
    char *data = malloc(length + 1), *end = data;
    if (data == NULL)
        give_up("no memory");
    for (int at = 0; at < count; at++)
        end = mempcpy(end, parts[at].iov_base, parts[at].iov_len);
    ssize_t written = write_followed(file, descriptor, data, length, offset);
    free(data);
    return written;
}

ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
    const struct file *file = followed(descriptor);
    return file == NULL ? real_writev(descriptor, parts, count) : write_parts(file, descriptor, parts, count, -1);
}

ssize_t pwritev64v2(int descriptor, const struct iovec *parts, int count, off64_t offset, int flags)
{
    const struct file *file = followed(descriptor);
    if (file == NULL)
        return real_pwritev2(descriptor, parts, count, offset, flags);
    if (flags != 0)
        give_up("a write of this kind is not followed");
    return write_parts(file, descriptor, parts, count, offset);
}

ssize_t pwritev2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags)
{
    return pwritev64v2(descriptor, parts, count, offset, flags);
}

ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset)
{
    return pwritev64v2(descriptor, parts, count, offset, 0);
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset)
{
    return pwritev64v2(descriptor, parts, count, offset, 0);
}

/* --- sizes --------------------------------------------------------------------------------------------------------- */

int ftruncate64(int descriptor, off64_t size)
{
    const struct file *file = followed(descriptor);
    if (file == NULL)
        return real_ftruncate(descriptor, size);
    pthread_mutex_lock(&lock);
    enum action action = meet(TRUNCATE, file->name);
    int result = -1;
    if (action != FAIL_BEFORE && (result = real_ftruncate(descriptor, size)) == 0)
        put_record(RECORD_TRUNCATE, 0, file->inode, (uint64_t)size, NULL, 0);
    return (int)leave(action, result);
}

int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }

int fallocate64(int descriptor, int mode, off64_t offset, off64_t length)
{
    const struct file *file = followed(descriptor);
    if (file == NULL)
        return real_fallocate(descriptor, mode, offset, length);
    if (mode != 0)
        give_up("a fallocate of this kind is not followed");
    pthread_mutex_lock(&lock);
    uint64_t size = size_of(descriptor), end = (uint64_t)(offset + length);
    enum action action = meet(TRUNCATE, file->name);
    if (control->full && end > size) {
        control->error = ENOSPC;
        action = FAIL_BEFORE;
    }
    int result = -1;
    if (action != FAIL_BEFORE && (result = real_fallocate(descriptor, 0, offset, length)) == 0 && end > size)
        put_record(RECORD_TRUNCATE, 0, file->inode, end, NULL, 0);
    return (int)leave(action, result);
}

int fallocate(int descriptor, int mode, off_t offset, off_t length)
{
    return fallocate64(descriptor, mode, offset, length);
}

int posix_fallocate64(int descriptor, off64_t offset, off64_t length)
{
    return fallocate64(descriptor, 0, offset, length) == 0 ? 0 : errno;
}

int posix_fallocate(int descriptor, off_t offset, off_t length) { return posix_fallocate64(descriptor, offset, length); }

/* --- syncing ------------------------------------------------------------------------------------------------------- */

static int sync_followed(const struct file *file, int descriptor, int (*real)(int))
{
    pthread_mutex_lock(&lock);
    enum action action = meet(SYNC, file->name);
    int result = -1;
    if (action == FAIL_DOOMED)
        put_record(RECORD_SYNC_DOOMED, 0, file->inode, 0, NULL, 0);
    else if (action != FAIL_BEFORE && (result = real(descriptor)) == 0)
        put_record(RECORD_SYNC, 0, file->inode, 0, NULL, 0);
    return (int)leave(action, result);
}

int fsync(int descriptor)
{
    const struct file *file = followed(descriptor);
    return file == NULL ? real_fsync(descriptor) : sync_followed(file, descriptor, real_fsync);
}

int fdatasync(int descriptor)
{
    const struct file *file = followed(descriptor);
    return file == NULL ? real_fdatasync(descriptor) : sync_followed(file, descriptor, real_fdatasync);
}

/* --- names --------------------------------------------------------------------------------------------------------- */

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    const char *old = name_of(from_folder, from), *new = name_of(to_folder, to);
    if (old == NULL && new == NULL)
        return real_renameat2(from_folder, from, to_folder, to, flags);
    if (old == NULL || new == NULL)
        give_up("a file is moved across the border of the root");
    pthread_mutex_lock(&lock);
    enum action action = meet(RENAME, new);
    int result = -1;
    if (action != FAIL_BEFORE && (result = real_renameat2(from_folder, from, to_folder, to, flags)) == 0)
        put_names(RECORD_RENAME, old, new);
    return (int)leave(action, result);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *path, int flags)
{
    const char *name = name_of(folder, path);
    if (name == NULL || (flags & AT_REMOVEDIR))
        return real_unlinkat(folder, path, flags);
    pthread_mutex_lock(&lock);
    enum action action = meet(UNLINK, name);
    int result = -1;
    if (action != FAIL_BEFORE && (result = real_unlinkat(folder, path, flags)) == 0)
        put_names(RECORD_UNLINK, name, "");
    return (int)leave(action, result);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

/* --- the clock ----------------------------------------------------------------------------------------------------- */

#define BILLION 1000000000

int clock_gettime(clockid_t clock, struct timespec *now)
{
    begin();
    int result = real_clock_gettime(clock, now);
    if (result == 0 && control != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t offset = control->clock_offset_ns;
        now->tv_sec += offset / BILLION;
        now->tv_nsec += offset % BILLION;
        if (now->tv_nsec < 0 || now->tv_nsec >= BILLION) {
            int carry = now->tv_nsec < 0 ? -1 : 1;
            now->tv_sec += carry;
            now->tv_nsec -= carry * BILLION;
        }
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now != NULL)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
