// What users of client-go and controller-runtime do, against a whole cluster: clients KUBECONFIG PART...
// Ends with an error where an answer is not what upstream's API server gives.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// How long all parts together may take.
const deadline = 150 * time.Second

var parts = map[string]func(context.Context, *rest.Config){
	"typed":     typed,
	"same":      sameInBothFormats,
	"informers": informers,
	"dynamic":   dynamicObjects,
	"discovery": discoveries,
	"leading":   leading,
	"events":    recordedEvents,
	"manager":   managed,
}

func main() {
	ctx, stop := context.WithTimeout(context.Background(), deadline)
	defer stop()
	config := must(clientcmd.BuildConfigFromFlags("", os.Args[1]))
	config.QPS, config.Burst = -1, 0
	var all sync.WaitGroup
	var failed atomic.Bool
	for _, name := range os.Args[2:] {
		all.Go(func() {
			start := time.Now()
			// The other parts go on: one run tells everything.
			defer func() {
				if why := recover(); why != nil {
					fmt.Printf("%s failed: %v\n%s\n", name, why, debug.Stack())
					failed.Store(true)
				}
			}()
			parts[name](ctx, rest.CopyConfig(config))
			fmt.Printf("%s held after %s\n", name, time.Since(start).Round(time.Millisecond))
		})
	}
	all.Wait()
	if failed.Load() {
		os.Exit(1)
	}
	fmt.Println("everything held")
}
