// Every verb that hosts find by name, one line each: what PyTorch, JAX and Python have is this list.
#pragma once

#include "craft/alignment.hpp"
#include "craft/anchors.hpp"
#include "craft/bandwidth.hpp"
#include "craft/cosine_embedding.hpp"
#include "craft/describe.hpp"
#include "craft/kernel_inception_distance.hpp"
#include "craft/kmeans.hpp"
#include "craft/mmd.hpp"
#include "craft/objective.hpp"
#include "craft/relative.hpp"
#include "craft/sigmoid_contrastive.hpp"
#include "craft/two_sample.hpp"
#include "craft/uniformity.hpp"

namespace craft::verbs {

/// In the order in which they are shown.
using all = verb_list<mmd,                        //
                      mmd_preset,                 //
                      info_nce,                   //
                      anchor_cross_entropy,       //
                      sigmoid_contrastive,        //
                      cosine_embedding,           //
                      uniformity,                 //
                      relative,                   //
                      relative_pullback,          //
                      relative_pushforward,       //
                      objective,                  //
                      two_sample_test,            //
                      kernel_inception_distance,  //
                      bandwidth_scale,            //
                      class_means,                //
                      kmeans,                     //
                      kmeans_per_class,           //
                      medoids,                    //
                      random_anchors,             //
                      stratified_anchors,         //
                      farthest_point_anchors>;

}  // namespace craft::verbs
