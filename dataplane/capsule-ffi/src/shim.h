// What capsule and Spillway use of DPDK: bindgen reads this. Inline functions of DPDK get a symbol under the names
// that capsule calls them by, `_rte_*`; what would need bitfields or anonymous unions in Rust is `capsule_ffi_*`.

#ifndef CAPSULE_FFI_SHIM_H
#define CAPSULE_FFI_SHIM_H

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

// Macros with casts, which bindgen cannot evaluate, as constants that it can.
static const uint64_t CAPSULE_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t CAPSULE_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t CAPSULE_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t CAPSULE_RSS_SCTP = RTE_ETH_RSS_SCTP;
static const uint64_t CAPSULE_RSS_ESP = RTE_ETH_RSS_ESP;
static const uint64_t CAPSULE_TX_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t CAPSULE_RX_IPV4_CHECKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t CAPSULE_MBUF_RX_IP_CHECKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t CAPSULE_MBUF_RX_IP_CHECKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint32_t CAPSULE_MBUF_BUF_SIZE = RTE_MBUF_DEFAULT_BUF_SIZE;
static const uint32_t CAPSULE_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t CAPSULE_LCORE_ANY = LCORE_ID_ANY;

int _rte_errno(void);
unsigned int _rte_lcore_id(void);
struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool);
void _rte_pktmbuf_free(struct rte_mbuf *mbuf);
int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned int count);
uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

// Has DPDK write its log to `sink`, in pieces of any length. 0, or -1 with errno.
int capsule_ffi_log_to(void (*sink)(const char *text, size_t len));

// The length of the first queue, each way, as its driver has it. What the driver does not tell stays as it is.
void capsule_ffi_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx);

// Steering of received packets by the NIC. Each is 0, or the negative error of rte_flow. A rule goes when it is destroyed,
// or when the port is closed.
struct rte_flow;
// UDP to `udp_port` (IPv4 or IPv6) goes to `queue`.
int capsule_ffi_steer_udp(uint16_t port, int ipv6, uint16_t udp_port, uint16_t queue, struct rte_flow **rule);
// ESP is spread over the queues 0 to `queues` - 1 by its SPI.
int capsule_ffi_spread_esp(uint16_t port, int ipv6, uint16_t queues, struct rte_flow **rule);
int capsule_ffi_flow_destroy(uint16_t port, struct rte_flow *rule);

#endif
