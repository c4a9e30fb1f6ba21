// Package kafka holds what every part needs to speak to Kafka the same way:
// names of topics and groups, client options from the environment, the key's
// partition, and topics made or checked from the catalog. It consumes and
// produces nothing by itself, deletes no topic and no record, and starts no
// goroutine.
//
// It keeps I4's condition on partitions: those of a queue with an ordered kind
// are never changed under it.
package kafka
