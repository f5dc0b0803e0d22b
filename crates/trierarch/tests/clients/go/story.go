package main

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What the user of the manager does and sees: through the manager's cache, and without it.
func tell(ctx context.Context, cached, direct client.Client) {
	widget := &Widget{ObjectMeta: metav1.ObjectMeta{Name: "w", Namespace: managedIn}, Spec: WidgetSpec{Size: 3}}
	// The API server may not know of the webhooks yet.
	eventually(ctx, "the validating webhook refuses", func() bool {
		wrong := widget.DeepCopyObject().(*Widget)
		wrong.Spec.Size = 101
		err := direct.Create(ctx, wrong, client.DryRunAll)
		return err != nil && apierrors.IsForbidden(err) && strings.Contains(err.Error(), "a size of 101 is too large")
	})
	check(direct.Create(ctx, widget))
	assert(widget.Spec.Color == "blue", "the mutating webhook said nothing: %v", widget.Spec)
	key := client.ObjectKeyFromObject(widget)
	seen := func(generation int64) {
		eventually(ctx, "the controller has seen it", func() bool {
			found := &Widget{}
			return cached.Get(ctx, key, found) == nil && found.Status.ObservedGeneration == generation && meta.IsStatusConditionTrue(found.Status.Conditions, "Ready")
		})
	}
	seen(1)
	child := &corev1.ConfigMap{}
	check(direct.Get(ctx, key, child))
	assert(child.Data["size"] == "3" && metav1.IsControlledBy(child, widget), "%v", child)
	inBothVersions(ctx, direct, key)
	seen(2)
	check(direct.Get(ctx, key, child))
	assert(child.Data["size"] == "7", "%v", child.Data)
	check(direct.Delete(ctx, child))
	eventually(ctx, "the child is made again", func() bool {
		again := &corev1.ConfigMap{}
		return direct.Get(ctx, key, again) == nil && again.UID != child.UID
	})
	listed := &WidgetList{}
	eventually(ctx, "the cache's index has it", func() bool {
		check(cached.List(ctx, listed, client.MatchingFields{"spec.color": "blue"}, client.InNamespace(managedIn)))
		return len(listed.Items) == 1
	})
	recorded(ctx, direct)
	deleted(ctx, direct, key)
}

// The webhook converts what is asked for and written in the other version.
func inBothVersions(ctx context.Context, direct client.Client, key types.NamespacedName) {
	two := &WidgetTwo{}
	check(direct.Get(ctx, key, two))
	assert(two.Spec.Dimensions == "3" && two.Spec.Color == "blue" && two.UID != "", "%v", two)
	before := two.DeepCopyObject().(*WidgetTwo)
	two.Spec.Dimensions = "7"
	check(direct.Patch(ctx, two, client.MergeFrom(before)))
	one := &Widget{}
	check(direct.Get(ctx, key, one))
	assert(one.Spec.Size == 7 && one.Generation == 2, "%v", one)
	refusedAs(ctx, "dimensions are no number", func() error {
		check(direct.Get(ctx, key, two))
		two.Spec.Dimensions = "many"
		return direct.Update(ctx, two)
	})
	refusedAs(ctx, "the color stays blue", func() error {
		check(direct.Get(ctx, key, one))
		one.Spec.Color = "red"
		return direct.Update(ctx, one)
	})
}

// refusedAs expects a refusal that says something; the controller may have been quicker with its own update.
func refusedAs(ctx context.Context, text string, try func() error) {
	eventually(ctx, text, func() bool {
		err := try()
		assert(err != nil, "was not refused: %s", text)
		return strings.Contains(err.Error(), text)
	})
}

func recorded(ctx context.Context, direct client.Client) {
	eventually(ctx, "the event is there", func() bool {
		list := &eventsv1.EventList{}
		check(direct.List(ctx, list, client.InNamespace(managedIn)))
		for _, event := range list.Items {
			if event.Regarding.Kind == "Widget" && event.Note == "the child was created" && event.Related.Kind == "ConfigMap" {
				return true
			}
		}
		return false
	})
}

func deleted(ctx context.Context, direct client.Client, key types.NamespacedName) {
	kept := &Widget{}
	check(direct.Get(ctx, key, kept))
	labelled := func(value string) {
		before := kept.DeepCopyObject().(*Widget)
		kept.Labels = map[string]string{"kept": value}
		check(direct.Patch(ctx, kept, client.MergeFrom(before)))
	}
	labelled("yes")
	refusal := direct.Delete(ctx, kept)
	assert(refusal != nil && strings.Contains(refusal.Error(), "w is kept"), "%v", refusal)
	labelled("")
	check(direct.DeleteAllOf(ctx, &Widget{}, client.InNamespace(managedIn)))
	gone := func(object client.Object) func() bool {
		return func() bool { return apierrors.IsNotFound(direct.Get(ctx, key, object)) }
	}
	eventually(ctx, "the widget is gone", gone(&Widget{}))
	eventually(ctx, "its child is gone", gone(&corev1.ConfigMap{}))
	check(direct.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: "w-was-cleaned"}, &corev1.ConfigMap{}))
}
