package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
)

// Leader election: one leads at a time, and whoever lets go is succeeded.
func leading(ctx context.Context, config *rest.Config) {
	const ns, candidates = "go-leading", 3
	namespace(ctx, config, ns)
	client := kubernetes.NewForConfigOrDie(config)
	var leaders, terms atomic.Int32
	var ended atomic.Int32
	for index := range candidates {
		name := fmt.Sprintf("c%d", index)
		lock := must(resourcelock.New(resourcelock.LeasesResourceLock, ns, "l", client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name}))
		own, stop := context.WithCancel(ctx)
		elector := must(leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, ReleaseOnCancel: true, Name: name,
			LeaseDuration: 60 * time.Second, RenewDeadline: 40 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {
					assert(leaders.Add(1) == 1, "two lead")
					terms.Add(1)
					leaders.Add(-1)
					stop()
				},
				OnStoppedLeading: func() {},
			},
		}))
		go func() {
			elector.Run(own)
			ended.Add(1)
		}()
	}
	eventually(ctx, "everyone led once", func() bool { return ended.Load() == candidates })
	assert(terms.Load() == candidates, "%d terms", terms.Load())
	lease := must(client.CoordinationV1().Leases(ns).Get(ctx, "l", metav1.GetOptions{}))
	assert(*lease.Spec.HolderIdentity == "" && *lease.Spec.LeaseTransitions >= candidates-1, "%v", lease.Spec)
}

// Events of both sorts; what happens again and again becomes a series, or is counted.
func recordedEvents(ctx context.Context, config *rest.Config) {
	const ns = "go-events"
	namespace(ctx, config, ns)
	client := kubernetes.NewForConfigOrDie(config)
	about := must(client.CoreV1().ConfigMaps(ns).Create(ctx, configMap("m", nil), metav1.CreateOptions{}))
	old := record.NewBroadcaster(record.WithContext(ctx))
	old.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events(ns)})
	recorder := old.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: "go"})
	for range 3 {
		recorder.Event(about, corev1.EventTypeNormal, "Again", "it happened")
	}
	eventually(ctx, "it is counted", func() bool {
		list := must(client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=Again,involvedObject.kind=ConfigMap"}))
		return len(list.Items) == 1 && list.Items[0].Count == 3
	})
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	check(broadcaster.StartRecordingToSinkWithContext(ctx))
	series := broadcaster.NewRecorder(clientscheme.Scheme, "go.example.com/series")
	for range 3 {
		series.Eventf(about, nil, corev1.EventTypeWarning, "Series", "Do", "it happened to %s", about.Name)
	}
	var found *eventsv1.Event
	eventually(ctx, "it is a series", func() bool {
		list := must(client.EventsV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=Series"}))
		if len(list.Items) == 1 {
			found = &list.Items[0]
		}
		return found != nil && found.Series != nil
	})
	assert(found.ReportingController == "go.example.com/series" && found.Regarding.Name == "m", "%v", found)
}
