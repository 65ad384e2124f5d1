// Scenarios with Kafka's clients in Go: `scenarios CLIENT HOST:PORT TOPIC NAME [ARGUMENT ...]` prints what was
// seen, as JSON. Nothing takes longer than the limit below.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

const (
	limit    = 40 * time.Second // of a whole scenario
	callTime = 10 * time.Second // of a request
	// A member that only vanishes stays longer than a scenario may take: it has to leave.
	sessionTime = 60 * time.Second
	heartbeat   = 100 * time.Millisecond
	fetchTime   = 100 * time.Millisecond
)

var clients = map[string]func(bootstrap string, login *credentials) (client, error){
	"sarama":   openSarama,
	"franz-go": openFranz,
	"kafka-go": openKafkaGo,
}

func main() {
	if len(os.Args) < 5 || clients[os.Args[1]] == nil || scenarios[os.Args[4]] == nil {
		fail(fmt.Errorf("no such scenario: %q", os.Args[1:]))
	}
	time.AfterFunc(limit, func() { fail(fmt.Errorf("the scenario takes longer than %v", limit)) })
	ctx, done := context.WithTimeout(context.Background(), limit)
	defer done()
	given := arguments{open: clients[os.Args[1]], bootstrap: os.Args[2], topic: os.Args[3], more: os.Args[5:]}
	seen, err := scenarios[os.Args[4]](ctx, given)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(seen)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
