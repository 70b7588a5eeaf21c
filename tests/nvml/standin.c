/* A stand-in for libnvidia-ml.so.1: NVML's C ABI, answers from a scenario file.
 *
 * NVML_STANDIN names the file (its format: samplers/_nvml/scenario.py). It is read again whenever it changes, so that a
 * test can pull a card out, let a call hang, or raise an error while the library is in use. What the file does not name
 * is not supported. Structures and signatures follow nvml.h.
 *
 * More than the simulated source takes: `crash` ends the process; the list of processes (its function's name as key)
 * may be `claims N`, longer than it is when its size is asked for, `grows`, too long for whatever room there is, or
 * `lies N`, which says that it filled in more than there was room for. NVML_STANDIN_ASKED names a file that gets a line
 * for each question.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef int nvmlReturn_t;
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, TIMEOUT = 10, UNKNOWN = 999 };

enum { MAX_CARDS = 32, MAX_MIG = 8, MAX_KEYS = 400, MAX_PROCESSES = 32 };

typedef struct { char key[96]; char value[160]; } answer_t;
typedef struct { unsigned pid; int compute; unsigned long long memory; unsigned sm, gi, ci; } process_t;
typedef struct {
    int keys, processes, xids, told;
    answer_t answers[MAX_KEYS];
    process_t process[MAX_PROCESSES];
    int xid[256];
} device_t;
typedef struct { int card, mig; } handle_t; /* mig: -1 for the card itself */
typedef const handle_t *nvmlDevice_t;

static device_t *system_, *cards[MAX_CARDS], *slices[MAX_CARDS][MAX_MIG];
static int card_count, slice_count[MAX_CARDS], ready;
static int opened, lost[MAX_CARDS]; /* as NVML: what was there when it was opened; what is lost stays lost until then */
static handle_t handles[MAX_CARDS][MAX_MIG + 1];
static struct timespec changed;
static long long size_;
static FILE *asked;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void parse(FILE *file) {
    char line[512];
    int first = system_ == NULL;
    int told[MAX_CARDS];
    for (int i = 0; i < MAX_CARDS; i++) told[i] = cards[i] ? cards[i]->told : -1;
    if (first) system_ = calloc(1, sizeof(device_t));
    device_t *here = system_;
    here->keys = 0;
    card_count = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "#\n")] = 0;
        char *key = line + strspn(line, " \t");
        char *value = key + strcspn(key, " \t");
        if (*value) *value++ = 0;
        value += strspn(value, " \t");
        for (size_t n = strlen(value); n && (value[n - 1] == ' ' || value[n - 1] == '\t'); n--) value[n - 1] = 0;
        if (!*key) continue;
        if (!strcmp(key, "card") && card_count < MAX_CARDS) {
            if (!cards[card_count]) cards[card_count] = calloc(1, sizeof(device_t));
            slice_count[card_count] = 0;
            here = cards[card_count++];
            here->keys = here->processes = here->xids = 0;
        } else if (!strcmp(key, "mig") && card_count && slice_count[card_count - 1] < MAX_MIG) {
            device_t **slot = &slices[card_count - 1][slice_count[card_count - 1]++];
            if (!*slot) *slot = calloc(1, sizeof(device_t));
            here = *slot;
            here->keys = here->processes = here->xids = 0;
        } else if (!strcmp(key, "process") && here->processes < MAX_PROCESSES) {
            process_t *p = &here->process[here->processes++];
            char kind[32] = "", memory[32] = "0";
            p->sm = 0xFFFFFFFF;
            p->gi = p->ci = 0xFFFFFFFF;
            sscanf(value, "%u %31s %31s %u %u %u", &p->pid, kind, memory, &p->sm, &p->gi, &p->ci);
            p->memory = strtoull(memory, NULL, 0);
            p->compute = strcmp(kind, "graphics") != 0;
        } else if (!strcmp(key, "xid") && here->xids < 256) {
            here->xid[here->xids++] = atoi(value);
        } else if (here->keys < MAX_KEYS) {
            answer_t *a = &here->answers[here->keys++];
            snprintf(a->key, sizeof a->key, "%s", key);
            snprintf(a->value, sizeof a->value, "%s", value);
        }
    }
    for (int i = 0; i < card_count; i++) { /* what was there at the start is history */
        cards[i]->told = told[i] < 0 ? cards[i]->xids : told[i];
        if (cards[i]->told > cards[i]->xids) cards[i]->told = cards[i]->xids;
    }
}

static void refresh(void) { /* with the lock held */
    const char *path = getenv("NVML_STANDIN");
    struct stat st;
    if (!path || stat(path, &st)) return;
    if (st.st_mtim.tv_sec == changed.tv_sec && st.st_mtim.tv_nsec == changed.tv_nsec && st.st_size == size_) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    changed = st.st_mtim;
    size_ = st.st_size;
    parse(file);
    fclose(file);
}

static const char *find(const device_t *d, const char *key) {
    for (int i = 0; i < d->keys; i++)
        if (!strcmp(d->answers[i].key, key)) return d->answers[i].value;
    return NULL;
}

/* Copy the answer to a key, or return the error that it stands for; "hang" never returns, "crash" ends the process,
   "slow 1.5 …" takes so long. */
static nvmlReturn_t answer(nvmlDevice_t h, const char *key, char out[160]) {
    pthread_mutex_lock(&lock);
    if (!ready) {
        pthread_mutex_unlock(&lock);
        return UNINITIALIZED;
    }
    refresh();
    if (!asked && getenv("NVML_STANDIN_ASKED")) asked = fopen(getenv("NVML_STANDIN_ASKED"), "a");
    if (asked) {
        fprintf(asked, "%s\n", key);
        fflush(asked);
    }
    const device_t *d = system_;
    if (h) {
        int gone = h->card >= card_count || (h->mig >= 0 && h->mig >= slice_count[h->card]);
        d = gone ? NULL : h->mig >= 0 ? slices[h->card][h->mig] : cards[h->card];
    }
    if (h && lost[h->card]) d = NULL;
    const char *found = d ? find(d, "*") : NULL;
    if (d && !found) found = find(d, key);
    nvmlReturn_t result = OK;
    int hang = 0;
    if (!d) result = h->mig >= 0 && h->card < card_count && !lost[h->card] ? INVALID : 15; /* 15: GPU is lost */
    else if (!found) result = NOT_SUPPORTED;
    else if (!strcmp(found, "hang")) hang = 1;
    else if (!strcmp(found, "crash")) abort();
    else if (!strncmp(found, "error ", 6)) result = atoi(found + 6);
    else snprintf(out, 160, "%s", found);
    if (h && result == 15) lost[h->card] = 1;
    pthread_mutex_unlock(&lock);
    while (hang) pause();
    if (result == OK && !strncmp(out, "slow ", 5)) {
        char *rest;
        double seconds = strtod(out + 5, &rest);
        usleep((useconds_t)(seconds * 1e6));
        memmove(out, rest + 1, strlen(rest));
    }
    return result;
}

static nvmlReturn_t number(nvmlDevice_t h, const char *key, unsigned long long *out) {
    char text[160];
    nvmlReturn_t result = answer(h, key, text);
    if (result == OK) *out = text[0] == '-' ? (unsigned long long)strtoll(text, NULL, 0) : strtoull(text, NULL, 0);
    return result;
}

static nvmlReturn_t uint_of(nvmlDevice_t h, const char *key, unsigned *out) {
    unsigned long long wide = 0;
    nvmlReturn_t result = number(h, key, &wide);
    if (result == OK) *out = (unsigned)wide;
    return result;
}

static nvmlReturn_t text_of(nvmlDevice_t h, const char *key, char *out, unsigned length) {
    char text[160];
    nvmlReturn_t result = answer(h, key, text);
    if (result != OK) return result;
    if (strlen(text) + 1 > length) return SMALL;
    strcpy(out, text);
    return OK;
}

#define UINT(name) \
    nvmlReturn_t name(nvmlDevice_t h, unsigned *out) { return uint_of(h, #name, out); }
#define UINT_BY(name) \
    nvmlReturn_t name(nvmlDevice_t h, unsigned which, unsigned *out) { \
        char key[96]; \
        snprintf(key, sizeof key, #name ".%u", which); \
        return uint_of(h, key, out); \
    }
#define TEXT(name) \
    nvmlReturn_t name(nvmlDevice_t h, char *out, unsigned length) { return text_of(h, #name, out, length); }

/* --- library and devices --------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    refresh();
    if (!ready++) {
        opened = card_count;
        memset(lost, 0, sizeof lost);
    }
    pthread_mutex_unlock(&lock);
    if (!system_) return 9; /* driver not loaded: no scenario */
    char text[160];
    nvmlReturn_t result = answer(NULL, "nvmlInit", text);
    return result == NOT_SUPPORTED ? OK : result;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    if (ready) ready--;
    pthread_mutex_unlock(&lock);
    return OK;
}
const char *nvmlErrorString(nvmlReturn_t code) {
    switch (code) {
        case OK: return "Success";
        case UNINITIALIZED: return "Uninitialized";
        case INVALID: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case 4: return "Insufficient Permissions";
        case NOT_FOUND: return "Not Found";
        case 9: return "Driver Not Loaded";
        case TIMEOUT: return "Timeout";
        case 13: return "Function Not Found";
        case 15: return "GPU is lost";
        case 16: return "GPU requires reset";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}
nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned length) { return text_of(NULL, "driver", out, length); }
nvmlReturn_t nvmlSystemGetNVMLVersion(char *out, unsigned length) { return text_of(NULL, "nvml", out, length); }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *out) { return uint_of(NULL, "cuda", (unsigned *)out); }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *out) {
    *out = (unsigned)opened;
    nvmlReturn_t result = uint_of(NULL, "nvmlDeviceGetCount", out);
    return result == NOT_SUPPORTED ? OK : result;
}
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *out) {
    if (!ready) return UNINITIALIZED;
    if (index >= (unsigned)opened) return INVALID;
    handle_t *h = &handles[index][0];
    *h = (handle_t){(int)index, -1};
    char text[160];
    nvmlReturn_t result = answer(h, "nvmlDeviceGetHandleByIndex", text);
    if (result != NOT_SUPPORTED && result != OK) return result;
    *out = h;
    return OK;
}
TEXT(nvmlDeviceGetName)
TEXT(nvmlDeviceGetUUID)
TEXT(nvmlDeviceGetSerial)
TEXT(nvmlDeviceGetVbiosVersion)
UINT(nvmlDeviceGetMinorNumber)

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t h, nvmlPciInfo_t *out) {
    memset(out, 0, sizeof *out);
    return text_of(h, "nvmlDeviceGetPciInfo.busId", out->busId, sizeof out->busId);
}

/* --- MIG -------------------------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t h, unsigned *current, unsigned *pending) {
    nvmlReturn_t result = uint_of(h, "nvmlDeviceGetMigMode.0", current);
    return result == OK ? uint_of(h, "nvmlDeviceGetMigMode.1", pending) : result;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t h, unsigned *out) {
    if (h->mig >= 0) return INVALID;
    *out = MAX_MIG - 1;
    nvmlReturn_t result = uint_of(h, "nvmlDeviceGetMaxMigDeviceCount", out);
    return result == NOT_SUPPORTED ? OK : result;
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t h, unsigned index, nvmlDevice_t *out) {
    if (index >= (unsigned)slice_count[h->card]) return NOT_FOUND;
    handle_t *slice = &handles[h->card][index + 1];
    *slice = (handle_t){h->card, (int)index};
    *out = slice;
    return OK;
}
UINT(nvmlDeviceGetGpuInstanceId)
UINT(nvmlDeviceGetComputeInstanceId)

/* --- figures ---------------------------------------------------------------------------------------------------- */

typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t h, nvmlUtilization_t *out) {
    nvmlReturn_t result = uint_of(h, "nvmlDeviceGetUtilizationRates.gpu", &out->gpu);
    return result == OK ? uint_of(h, "nvmlDeviceGetUtilizationRates.memory", &out->memory) : result;
}

typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t h, nvmlMemory_t *out) {
    memset(out, 0, sizeof *out);
    unsigned long long reserved = 0;
    nvmlReturn_t result = number(h, "nvmlDeviceGetMemoryInfo.total", &out->total);
    if (result == OK) result = number(h, "nvmlDeviceGetMemoryInfo.used", &out->used);
    if (result == OK && number(h, "nvmlDeviceGetMemoryInfo.reserved", &reserved) == OK) out->used += reserved;
    out->free = out->total - out->used;
    return result;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t h, nvmlMemory_v2_t *out) {
    if (out->version != (sizeof *out | 2u << 24)) return 25; /* argument version mismatch */
    nvmlReturn_t result = number(h, "nvmlDeviceGetMemoryInfo.total", &out->total);
    if (result == OK) result = number(h, "nvmlDeviceGetMemoryInfo.reserved", &out->reserved);
    if (result == OK) result = number(h, "nvmlDeviceGetMemoryInfo.used", &out->used);
    out->free = out->total - out->used - out->reserved;
    return result;
}

UINT(nvmlDeviceGetPowerUsage)
UINT(nvmlDeviceGetEnforcedPowerLimit)
UINT_BY(nvmlDeviceGetTemperature)
UINT_BY(nvmlDeviceGetTemperatureThreshold)
UINT_BY(nvmlDeviceGetClockInfo)
UINT_BY(nvmlDeviceGetMaxClockInfo)
UINT_BY(nvmlDeviceGetPcieThroughput)
UINT_BY(nvmlDeviceGetNvLinkState)
UINT(nvmlDeviceGetPcieReplayCounter)
UINT(nvmlDeviceGetCurrPcieLinkWidth)
UINT(nvmlDeviceGetMaxPcieLinkWidth)
UINT(nvmlDeviceGetCurrPcieLinkGeneration)
UINT(nvmlDeviceGetMaxPcieLinkGeneration)
UINT(nvmlDeviceGetFanSpeed)
UINT(nvmlDeviceGetPerformanceState)

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t h, unsigned long long *out) {
    return number(h, "nvmlDeviceGetTotalEnergyConsumption", out);
}
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t h, unsigned long long *out) {
    return number(h, "nvmlDeviceGetCurrentClocksEventReasons", out);
}
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t h, unsigned long long *out) {
    return number(h, "nvmlDeviceGetCurrentClocksThrottleReasons", out);
}
typedef struct { unsigned version; int margin; } nvmlMarginTemperature_t;
nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t h, nvmlMarginTemperature_t *out) {
    return uint_of(h, "nvmlDeviceGetMarginTemperature", (unsigned *)&out->margin);
}
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t h, int kind, int counter, unsigned long long *out) {
    char key[96];
    snprintf(key, sizeof key, "nvmlDeviceGetTotalEccErrors.%d.%d", kind, counter);
    return number(h, key, out);
}
nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t h, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
    unsigned *out[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        char key[96];
        snprintf(key, sizeof key, "nvmlDeviceGetRemappedRows.%d", i);
        nvmlReturn_t result = uint_of(h, key, out[i]);
        if (result != OK) return result;
    }
    return OK;
}
static nvmlReturn_t codec(nvmlDevice_t h, const char *key, unsigned *utilization, unsigned *period) {
    *period = 167000; /* microseconds */
    return uint_of(h, key, utilization);
}
nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t h, unsigned *utilization, unsigned *period) {
    return codec(h, "nvmlDeviceGetEncoderUtilization.0", utilization, period);
}
nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t h, unsigned *utilization, unsigned *period) {
    return codec(h, "nvmlDeviceGetDecoderUtilization.0", utilization, period);
}

typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; } nvmlValue_t;
typedef struct {
    unsigned fieldId, scopeId;
    long long timestamp, latencyUsec;
    unsigned valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t h, int count, nvmlFieldValue_t *values) {
    char all[160];
    nvmlReturn_t whole = answer(h, "nvmlDeviceGetFieldValues", all);
    if (whole != OK && whole != NOT_SUPPORTED) return whole;
    for (int i = 0; i < count; i++) {
        char key[96], text[160];
        snprintf(key, sizeof key, "field.%u", values[i].fieldId);
        if (values[i].scopeId && values[i].scopeId != 0xFFFFFFFF)
            snprintf(key, sizeof key, "field.%u.%u", values[i].fieldId, values[i].scopeId);
        nvmlReturn_t result = values[i].nvmlReturn = answer(h, key, text);
        if (result != OK) continue;
        if (strpbrk(text, ".n") && strncmp(text, "0x", 2)) {
            values[i].valueType = 0;
            values[i].value.d = strtod(text, NULL);
        } else if (text[0] == '-') {
            values[i].valueType = 4;
            values[i].value.sll = strtoll(text, NULL, 0);
        } else {
            unsigned long long wide = strtoull(text, NULL, 0);
            values[i].valueType = wide >> 32 ? 3 : 1;
            if (wide >> 32) values[i].value.ull = wide;
            else values[i].value.ui = (unsigned)wide;
        }
    }
    return OK;
}

/* --- processes -------------------------------------------------------------------------------------------------- */

typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } nvmlProcessInfo_t;
typedef struct { unsigned pid; unsigned long long stamp; unsigned sm, mem, enc, dec; } nvmlProcessUtilizationSample_t;

static device_t *device_of(nvmlDevice_t h) {
    if (h->card >= card_count) return NULL;
    return h->mig >= 0 ? slices[h->card][h->mig] : cards[h->card];
}
/* Whether a list of processes is one that is `claimed`, `grows` or `lies`: then its count and what is returned with it. */
static int odd(const char *text, unsigned there, int room, unsigned *count, nvmlReturn_t *result) {
    *result = SMALL;
    if (!strncmp(text, "claims ", 7) && !room) *count = (unsigned)strtoul(text + 7, NULL, 0);
    else if (!strcmp(text, "grows")) *count = *count + there + 1;
    else if (!strncmp(text, "lies ", 5)) {
        if (room) *result = OK;
        *count = room ? (unsigned)strtoul(text + 5, NULL, 0) : there;
    } else return 0;
    return 1;
}
static nvmlReturn_t running(nvmlDevice_t h, const char *key, int compute, unsigned *count, nvmlProcessInfo_t *out) {
    char text[160] = "";
    nvmlReturn_t result = answer(h, key, text);
    if (result != OK && result != NOT_SUPPORTED) return result;
    device_t *d = device_of(h);
    unsigned there = 0;
    for (int i = 0; d && i < d->processes; i++) there += d->process[i].compute == compute;
    if (odd(text, there, out != NULL, count, &result)) return result;
    if (!there) {
        *count = 0;
        return OK;
    }
    if (!out || *count < there) {
        *count = there;
        return SMALL;
    }
    *count = 0;
    for (int i = 0; i < d->processes; i++)
        if (d->process[i].compute == compute)
            out[(*count)++] = (nvmlProcessInfo_t){d->process[i].pid, d->process[i].memory, d->process[i].gi, d->process[i].ci};
    return OK;
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t h, unsigned *count, nvmlProcessInfo_t *out) {
    return running(h, "nvmlDeviceGetComputeRunningProcesses", 1, count, out);
}
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t h, unsigned *count, nvmlProcessInfo_t *out) {
    return running(h, "nvmlDeviceGetGraphicsRunningProcesses", 0, count, out);
}
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t h, nvmlProcessUtilizationSample_t *out, unsigned *count,
                                             unsigned long long since) {
    char text[160] = "";
    nvmlReturn_t result = answer(h, "nvmlDeviceGetProcessUtilization", text);
    if (result != OK && result != NOT_SUPPORTED) return result;
    device_t *d = device_of(h);
    unsigned there = 0;
    for (int i = 0; d && i < d->processes; i++) there += d->process[i].sm != 0xFFFFFFFF;
    if (odd(text, there, out != NULL, count, &result)) return result;
    if (!there) return NOT_FOUND;
    if (!out || *count < there) {
        *count = there;
        return SMALL;
    }
    *count = 0;
    for (int i = 0; i < d->processes; i++)
        if (d->process[i].sm != 0xFFFFFFFF)
            out[(*count)++] = (nvmlProcessUtilizationSample_t){d->process[i].pid, since + 1, d->process[i].sm, 0, 0, 0};
    return OK;
}

/* --- events ----------------------------------------------------------------------------------------------------- */

typedef struct { int watched[MAX_CARDS]; } *nvmlEventSet_t;
typedef struct {
    nvmlDevice_t device;
    unsigned long long eventType, eventData;
    unsigned gi, ci;
} nvmlEventData_t;
nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out) {
    *out = calloc(1, sizeof **out);
    return OK;
}
nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    free(set);
    return OK;
}
nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t h, unsigned long long types, nvmlEventSet_t set) {
    char text[160];
    nvmlReturn_t result = answer(h, "nvmlDeviceRegisterEvents", text);
    if (result != OK && result != NOT_SUPPORTED) return result;
    set->watched[h->card] = (types & 8) != 0;
    return OK;
}
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *out, unsigned milliseconds) {
    for (unsigned waited = 0;; waited += 100) { /* NVML waits in the kernel; this must not cost much either */
        pthread_mutex_lock(&lock);
        refresh();
        for (int i = 0; i < card_count; i++)
            if (set->watched[i] && cards[i]->told < cards[i]->xids) {
                *out = (nvmlEventData_t){&handles[i][0], 8, (unsigned long long)cards[i]->xid[cards[i]->told++], -1, -1};
                pthread_mutex_unlock(&lock);
                return OK;
            }
        pthread_mutex_unlock(&lock);
        if (waited >= milliseconds) return TIMEOUT;
        usleep(100000);
    }
}

/* --- GPU performance monitoring --------------------------------------------------------------------------------- */

typedef struct { nvmlDevice_t device; unsigned long long taken; } *nvmlGpmSample_t;
typedef struct { unsigned id; nvmlReturn_t result; double value; char *names[3]; } nvmlGpmMetric_t;
typedef struct { unsigned version, count; nvmlGpmSample_t sample1, sample2; nvmlGpmMetric_t metrics[]; } nvmlGpmMetricsGet_t;
typedef struct { unsigned version, supported; } nvmlGpmSupport_t;
static unsigned long long samples_taken;
static int samples_held; /* what is not given back runs out */
enum { MAX_SAMPLES = 64, NO_MEMORY = 20 };

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t h, nvmlGpmSupport_t *out) {
    char text[160];
    if (out->version != 1) return 25;
    nvmlReturn_t result = answer(h, "nvmlGpmQueryDeviceSupport", text);
    if (result != OK && result != NOT_SUPPORTED) return result;
    out->supported = answer(h, "gpm.2", text) == OK || slice_count[h->card] > 0;
    return OK;
}
nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *out) {
    if (samples_held >= MAX_SAMPLES) return NO_MEMORY;
    samples_held++;
    *out = calloc(1, sizeof **out);
    return OK;
}
nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample) {
    samples_held--;
    free(sample);
    return OK;
}
static nvmlReturn_t take(nvmlDevice_t h, nvmlGpmSample_t sample) {
    char text[160];
    nvmlReturn_t result = answer(h, "nvmlGpmSampleGet", text);
    if (result != OK && result != NOT_SUPPORTED) return result;
    sample->device = h;
    sample->taken = ++samples_taken;
    return OK;
}
nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t h, nvmlGpmSample_t sample) {
    char text[160];
    if (answer(h, "nvmlDeviceGetMigMode.0", text) == OK && atoi(text) == 1) return NOT_SUPPORTED;
    return take(h, sample);
}
nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t h, unsigned instance, nvmlGpmSample_t sample) {
    for (int i = 0; i < slice_count[h->card]; i++) {
        handle_t *slice = &handles[h->card][i + 1];
        unsigned id;
        *slice = (handle_t){h->card, i};
        if (uint_of(slice, "nvmlDeviceGetGpuInstanceId", &id) == OK && id == instance) return take(slice, sample);
    }
    return NOT_FOUND;
}
nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *out) {
    if (out->version != 1) return 25;
    if (!out->sample1 || !out->sample2 || !out->sample1->taken || out->sample1->taken >= out->sample2->taken) return INVALID;
    if (out->sample1->device != out->sample2->device) return INVALID;
    for (unsigned i = 0; i < out->count; i++) {
        char key[96], text[160];
        snprintf(key, sizeof key, "gpm.%u", out->metrics[i].id);
        out->metrics[i].result = answer(out->sample2->device, key, text);
        if (out->metrics[i].result == OK) out->metrics[i].value = strtod(text, NULL);
    }
    return OK;
}
