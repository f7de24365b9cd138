// See shim.h.

#include "shim.h"

#include <stddef.h>
#include <stdio.h>
#include <rte_flow.h>
#include <rte_log.h>

// The layout that mbuf.rs writes down.
#define AT(field, offset) _Static_assert(offsetof(struct rte_mbuf, field) == (offset), "rte_mbuf." #field)
AT(buf_addr, 0);
AT(data_off, 16);
AT(refcnt, 18);
AT(nb_segs, 20);
AT(port, 22);
AT(ol_flags, 24);
AT(packet_type, 32);
AT(pkt_len, 36);
AT(data_len, 40);
AT(vlan_tci, 42);
AT(hash, 44);
AT(buf_len, 54);
AT(pool, 56);
AT(next, 64);
_Static_assert(sizeof(struct rte_mbuf) == 128, "rte_mbuf");

int _rte_errno(void) { return rte_errno; }

unsigned int _rte_lcore_id(void) { return rte_lcore_id(); }

struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

void _rte_pktmbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned int count) {
    rte_mempool_put_bulk(pool, objects, count);
}

uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, mbufs, count);
}

static void (*log_sink)(const char *text, size_t len);

static ssize_t log_write(void *cookie, const char *text, size_t len) {
    (void)cookie;
    log_sink(text, len);
    return (ssize_t)len;
}

int capsule_ffi_log_to(void (*sink)(const char *text, size_t len)) {
    cookie_io_functions_t functions = {.write = log_write};
    log_sink = sink;
    FILE *stream = fopencookie(NULL, "w", functions);
    if (stream == NULL)
        return -1;
    // A line is told when it is complete, also when the process ends right after it.
    setvbuf(stream, NULL, _IOLBF, BUFSIZ);
    return rte_openlog_stream(stream);
}

void capsule_ffi_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx) {
    struct rte_eth_rxq_info rx_info;
    struct rte_eth_txq_info tx_info;
    if (rte_eth_rx_queue_info_get(port, 0, &rx_info) == 0)
        *rx = rx_info.nb_desc;
    if (rte_eth_tx_queue_info_get(port, 0, &tx_info) == 0)
        *tx = tx_info.nb_desc;
}

static int create(uint16_t port, const struct rte_flow_item *pattern, const struct rte_flow_action *actions,
                  struct rte_flow **rule) {
    const struct rte_flow_attr attributes = {.ingress = 1};
    struct rte_flow_error error = {0};
    int refused = rte_flow_validate(port, &attributes, pattern, actions, &error);
    if (refused != 0)
        return refused < 0 ? refused : -refused;
    *rule = rte_flow_create(port, &attributes, pattern, actions, &error);
    return *rule != NULL ? 0 : -rte_errno;
}

int capsule_ffi_flow_destroy(uint16_t port, struct rte_flow *rule) {
    struct rte_flow_error error = {0};
    int refused = rte_flow_destroy(port, rule, &error);
    return refused < 0 ? refused : -refused;
}

int capsule_ffi_steer_udp(uint16_t port, int ipv6, uint16_t udp_port, uint16_t queue, struct rte_flow **rule) {
    const struct rte_flow_item_udp want = {.hdr.dst_port = rte_cpu_to_be_16(udp_port)};
    const struct rte_flow_item_udp mask = {.hdr.dst_port = 0xffff};
    const struct rte_flow_item pattern[] = {
        {.type = RTE_FLOW_ITEM_TYPE_ETH},
        {.type = ipv6 ? RTE_FLOW_ITEM_TYPE_IPV6 : RTE_FLOW_ITEM_TYPE_IPV4},
        {.type = RTE_FLOW_ITEM_TYPE_UDP, .spec = &want, .mask = &mask},
        {.type = RTE_FLOW_ITEM_TYPE_END},
    };
    const struct rte_flow_action_queue to = {.index = queue};
    const struct rte_flow_action actions[] = {
        {.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to},
        {.type = RTE_FLOW_ACTION_TYPE_END},
    };
    return create(port, pattern, actions, rule);
}

int capsule_ffi_spread_esp(uint16_t port, int ipv6, uint16_t queues, struct rte_flow **rule) {
    const struct rte_flow_item pattern[] = {
        {.type = RTE_FLOW_ITEM_TYPE_ETH},
        {.type = ipv6 ? RTE_FLOW_ITEM_TYPE_IPV6 : RTE_FLOW_ITEM_TYPE_IPV4},
        {.type = RTE_FLOW_ITEM_TYPE_ESP},
        {.type = RTE_FLOW_ITEM_TYPE_END},
    };
    uint16_t all[RTE_MAX_QUEUES_PER_PORT];
    if (queues > RTE_DIM(all))
        return -E2BIG;
    for (uint16_t queue = 0; queue < queues; queue++)
        all[queue] = queue;
    const struct rte_flow_action_rss spread = {.types = RTE_ETH_RSS_ESP, .queue_num = queues, .queue = all};
    const struct rte_flow_action actions[] = {
        {.type = RTE_FLOW_ACTION_TYPE_RSS, .conf = &spread},
        {.type = RTE_FLOW_ACTION_TYPE_END},
    };
    return create(port, pattern, actions, rule);
}
